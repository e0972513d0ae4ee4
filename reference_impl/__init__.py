"""A secure peer-to-peer request/response layer in which each of six optimizations has an off and an on twin."""
