"""Page-locked memory: locked once, used as it is where it cannot be. The driver is a stand-in: there is no GPU here."""

from __future__ import annotations

from tessera_keeper.shelf import Buffer
from tessera_trainer.page_locks import PageLocks


class Driver:
    """CUDA's part: writes down what it is asked for."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.locked, self.asked = code, list[int](), 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert size > 0
        assert flags == 0
        self.asked += 1
        if self.code == 0:
            assert address not in self.locked
            self.locked.append(address)
        return self.code

    def cudaHostUnregister(self, address: int) -> int:
        self.locked.remove(address)
        return 0


def test_a_buffer_is_locked_once() -> None:
    driver = Driver()
    locks, one, other = PageLocks(driver), Buffer.made(1, 4096), Buffer.made(2, 8192)
    for buffer in (one, other, one, other):
        locks.lock(buffer)
    assert driver.asked == len(driver.locked) == 2


def test_memory_that_takes_a_number_anew_is_locked_and_the_old_is_let_go_first() -> None:
    driver = Driver()
    locks = PageLocks(driver)
    locks.lock(Buffer.made(1, 4096))
    locks.lock(Buffer.made(1, 8192))
    assert driver.asked == 2
    assert len(driver.locked) == 1


def test_where_the_driver_refuses_memory_is_used_as_it_is_and_not_asked_for_again() -> None:
    driver = Driver(code=2)
    locks = PageLocks(driver)
    locks.lock(Buffer.made(1, 4096))
    locks.lock(Buffer.made(2, 4096))
    assert driver.asked == 1
