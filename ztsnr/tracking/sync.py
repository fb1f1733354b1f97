"""Delivers the events that runs left in their spools."""

import os
from pathlib import Path

from ztsnr.core.errors import TrackingError
from ztsnr.tracking.delivery import Delivery
from ztsnr.tracking.spool import Spool
from ztsnr.tracking.store import first_line, redact_credentials


def deliver_all(folder: Path, uri: str | None) -> None:
    """Delivers the spools of all runs in `folder` or below it, and prints a line for each.

    Raises TrackingError if there is none, or, after trying all, if some could not be delivered.
    """
    spools = sorted({file.parent for file in folder.rglob("events.jsonl")})
    if not spools:
        raise TrackingError(f"run={folder} has no tracking/events.jsonl in it or below it")
    failures = []
    for spool in spools:
        try:
            print(f"{spool}: {deliver_spool(spool, uri)}", flush=True)
        except TrackingError as error:
            failures.append(str(error))
    if failures:
        raise TrackingError("\n".join(failures))


def deliver_spool(folder: Path, uri: str | None) -> str:
    """Delivers a run's spool to `uri` or to the store where the run started; returns the outcome in a few words."""
    spool = Spool(folder)
    try:
        count = spool.undelivered_count()
        if not count or spool.start_event is None:
            return "nothing waits"
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or spool.start_event["uri"]
        Delivery(spool, uri).deliver()
        return f"{count} events delivered to {redact_credentials(uri)}"
    except TrackingError:
        raise
    except Exception as error:  # of MLflow, its database or its server
        raise TrackingError(f"{folder}: {spool.undelivered_count()} events wait, since {first_line(error)}") from error
    finally:
        spool.close()
