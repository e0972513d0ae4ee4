"""The regression gate: two arms measured until PASS or FAIL is shown, be they commits or any two programs."""
