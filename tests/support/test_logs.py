"""What is logged reaches a further handler, and nothing else changes; records of another process are logged here."""

import logging
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from pai_bench.support.logs import PACKAGE, ROOT, Sender, also_to, level_to_send, log_received

inner = logging.getLogger("pai_bench.some.module")


class Notes(logging.Handler):
    """Notes the messages that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def state() -> list[Any]:
    """How logging is configured."""
    return [(logger.level, logger.propagate, [*logger.handlers]) for logger in (PACKAGE, ROOT, inner)]


@pytest.fixture
def shown() -> Iterator[Notes]:
    """What is shown to the user: two handlers of which each is given a message once."""
    notes = Notes()
    ROOT.addHandler(notes)
    PACKAGE.addHandler(notes)
    yield notes
    ROOT.removeHandler(notes)
    PACKAGE.removeHandler(notes)


def test_a_receiver_gets_more_than_is_shown(shown: Notes) -> None:
    before, receiver = state(), Notes()
    with also_to(receiver):
        inner.debug("debug")
        inner.info("info")
        inner.warning("warning")
        logging.getLogger("mine").warning("of another package")
        logging.getLogger("mine").info("of another package, not shown")
    inner.warning("later")
    assert receiver.messages == ["info", "warning", "of another package"]
    assert shown.messages == ["warning", "warning", "of another package", "later", "later"]
    assert state() == before


@pytest.mark.parametrize("logger", [ROOT, PACKAGE, inner], ids=lambda logger: logger.name)
def test_levels_that_a_user_has_set(logger: logging.Logger, shown: Notes) -> None:
    level, receiver = logger.level, Notes()
    logger.setLevel(logging.DEBUG)
    try:
        with also_to(receiver):
            inner.debug("debug")
    finally:
        logger.setLevel(level)
    assert receiver.messages == ["debug"]
    assert shown.messages == ["debug", "debug"]


def test_two_receivers_that_end_in_any_order(shown: Notes) -> None:
    before, first, second = state(), Notes(), Notes()
    one, two = also_to(first), also_to(second)
    one.__enter__()
    two.__enter__()
    inner.info("both")
    one.__exit__(None, None, None)
    inner.info("second")
    two.__exit__(None, None, None)
    inner.info("none")
    assert (first.messages, second.messages, shown.messages) == (["both"], ["both", "second"], [])
    assert state() == before


def test_logging_that_nobody_has_configured_stays_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warnings are then printed by themselves, and the user's `basicConfig` still has an effect."""
    monkeypatch.setattr(ROOT, "handlers", [])
    with also_to(Notes()):
        assert not ROOT.handlers
        logging.getLogger("mine").warning("of mine")
        inner.warning("of ours")
        inner.info("not shown")
    assert capsys.readouterr().err == "of mine\nof ours\n"


def test_records_of_another_process(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Any] = []
    sender, receiver = Sender(lambda message: sent.append(pickle.loads(pickle.dumps(message)))), Notes()
    sender.setFormatter(logging.Formatter("%(message)s"))
    error = ZeroDivisionError, ZeroDivisionError("in a worker"), None
    sender.handle(logging.LogRecord("pai_bench.x", logging.WARNING, "f", 1, "of %s", ("it",), error))
    sender.handle(logging.LogRecord("pai_bench.x", logging.INFO, "f", 1, "more", (), None))
    assert [message_type for message_type, _ in sent] == ["log", "log"]
    assert level_to_send() == logging.INFO
    with also_to(receiver):
        for _, content in sent:
            log_received(content)
    log_received(sent[1][1])  # nobody wants it any more
    text = "of it\nZeroDivisionError: in a worker"
    assert receiver.messages == [text, "more"]
    assert caplog.record_tuples == [("pai_bench.x", logging.WARNING, text)]
    assert caplog.records[0].process == os.getpid()


def test_a_sender_whose_parent_has_gone_and_in_a_child_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(_message: object) -> None:
        raise BrokenPipeError

    sender, record = Sender(gone), logging.LogRecord("x", logging.WARNING, "f", 1, "by a child", (), None)
    sender.handle(record)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(os, "getpid", lambda: -1)
    sender.handle(record)
    assert capsys.readouterr().err == "by a child\n"
