"""The command line: what each command reads, and the one line that a mistake gets."""
