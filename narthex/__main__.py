"""`python -m narthex`: what .venv/bin/narthex runs."""

from narthex.cli import main

if __name__ == "__main__":
    main()
