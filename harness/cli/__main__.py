"""`python -m harness.cli.app` is `synapsed-bench`."""

from harness.cli.app import main

if __name__ == "__main__":
    main()
