"""What is started and closed, as a context manager."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

S = TypeVar("S", bound="Service")


class Service(ABC):
    """Processes with files of their own; a `with` leaves neither behind."""

    @abstractmethod
    def start(self: S) -> S:
        """Start everything and wait until it answers."""

    @abstractmethod
    def close(self) -> None:
        """End what runs and remove what is temporary; also after a start that failed."""

    def __enter__(self: S) -> S:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *error: object) -> None:
        self.close()
