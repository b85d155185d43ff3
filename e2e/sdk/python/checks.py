"""Named checks; each prints one JSON line that e2e/src/sdk.rs reads."""

import json
import sys
import time
import traceback

CHECKS = []
PATIENCE = 20.0


def check(name):
    """Registers a function (its arguments are the driver's) as a check."""

    def register(function):
        CHECKS.append((name, function))
        return function

    return register


def run(*args):
    """Runs all checks in order, whatever fails, and says at the end how many there were."""
    for name, function in CHECKS:
        try:
            function(*args)
            line = {"check": name, "ok": True}
        except BaseException as error:  # noqa: BLE001 a failed check must not hide the others
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno}: {where.line})"
            line = {"check": name, "ok": False, "detail": detail}
        print(json.dumps(line), flush=True)
    print(json.dumps({"done": len(CHECKS)}), flush=True)
    sys.stdout.flush()


def equal(got, expected):
    if got != expected:
        raise AssertionError(f"got {got!r}, expected {expected!r}")


def eventually(look, what):
    """The first truthy value of look(), which may take a while."""
    end = time.monotonic() + PATIENCE
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {PATIENCE} s")
        time.sleep(0.02)


def raises(kind, function, *args, **kwargs):
    """The exception of that kind that the call must end with."""
    try:
        result = function(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {result!r}")
