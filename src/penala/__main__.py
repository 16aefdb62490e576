"""`python -m penala` is `penala`."""

from penala.cli.main import main

if __name__ == "__main__":
    main()
