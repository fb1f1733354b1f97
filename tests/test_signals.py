import os
import signal

from ztsnr.training.signals import STOP_SIGNALS, StopSignals


def test_stop_signals_note_the_first_and_restore_the_handlers(capfd):
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopSignals() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # within a second: counts as the same
        assert stop.requested()
    assert stop.name == "SIGUSR1"
    assert "SIGUSR1: the run saves its state after this step and stops" in capfd.readouterr().err
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
