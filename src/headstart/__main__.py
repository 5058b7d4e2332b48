"""``python -m headstart``."""

from headstart.commands.main import entry

if __name__ == "__main__":
    entry()
