"""What the drivers have in common: a job comes on standard input, its outcome goes to standard output."""

import json
import sys


def read() -> dict:
    return json.load(sys.stdin)


def report(outcome: dict) -> None:
    json.dump(outcome, sys.stdout)
    print()


def seen(result) -> dict:
    """A result of tools/call as text and flag."""
    text = "\n".join(getattr(c, "text", "") for c in result.content)
    flag = getattr(result, "is_error", None)
    return {"isError": bool(getattr(result, "isError", False) if flag is None else flag), "text": text}


async def refused(attempt) -> str:
    """Runs what should be refused and returns the error's words, or nothing if it was not."""
    try:
        await attempt()
    except BaseException as err:  # groups of exceptions, too
        return words(err)
    return ""


def words(err: BaseException) -> str:
    if isinstance(err, BaseExceptionGroup):
        return "; ".join(words(e) for e in err.exceptions)
    said = f"{type(err).__name__}: {err}"
    response = getattr(err, "response", None)
    if response is not None:
        said += f" (status {response.status_code})"
    return said + ("; " + words(err.__cause__) if err.__cause__ else "")
