"""From stored rows to verdicts. Pure."""
