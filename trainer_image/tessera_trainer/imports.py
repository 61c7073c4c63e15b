"""What a trainer imports, gathered in one module so that the warm process has it ready. Imports only; nothing is
initialised."""

from tessera_trainer import __main__  # noqa: F401
