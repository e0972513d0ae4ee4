"""`python -m harness.cli` is `synapsed-bench`."""

from harness.cli.app import main

if __name__ == "__main__":
    main()
