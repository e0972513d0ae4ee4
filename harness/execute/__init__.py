"""All that starts, loads, watches and ends processes."""
