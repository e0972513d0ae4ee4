"""Memory and descriptors of process trees, read from outside."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path

import psutil

from harness.measure.records import Memory

_PAGE_SECONDS = 0.5
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"opens URLs of programs that we started ourselves, which no proxy of the environment should answer for"


def memory(pids: Iterable[int]) -> Memory:
    """Unique, proportional and resident set size (bytes) and open descriptors, summed over these processes.

    Linux: /proc/PID/smaps_rollup, USS = private clean + private dirty (proc(5)); elsewhere psutil, where
    PSS is not known and USS stands in for it. Raises ProcessLookupError when the first one is gone (another one may
    have ended, and counts no more), PermissionError when one cannot be read.
    """
    readings = []
    for number, pid in enumerate(pids):
        try:
            readings.append(_linux(pid) if sys.platform == "linux" else _portable(pid))
        except ProcessLookupError:
            if not number:
                raise
    return Memory(
        uss=sum(each.uss for each in readings),
        pss=sum(each.pss for each in readings),
        rss=sum(each.rss for each in readings),
        descriptors=sum(each.descriptors for each in readings),
    )


def published(url: str) -> dict[str, float]:
    """Gauges and counters of a Prometheus page, `name{label=value,...}` -> value; empty when there is none."""
    from prometheus_client.parser import text_string_to_metric_families  # only where a page is offered

    try:
        with DIRECT.open(url, timeout=_PAGE_SECONDS) as page:
            families = list(text_string_to_metric_families(page.read().decode()))
    except (OSError, ValueError, HTTPException):
        return {}
    found = {}
    for family in families:
        for sample in family.samples if family.type in ("gauge", "counter") else ():
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = float(sample.value)
    return found


def _linux(pid: int) -> Memory:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError as error:
        raise PermissionError(f"process {pid} cannot be read; expected one that is ours") from error
    except OSError as error:
        raise ProcessLookupError(f"process {pid} is gone: {error.strerror}") from error
    sizes: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return Memory(
        uss=sizes["Private_Clean"] + sizes["Private_Dirty"],
        pss=sizes["Pss"],
        rss=sizes["Rss"],
        descriptors=descriptors,
    )


def _portable(pid: int) -> Memory:
    try:
        process = psutil.Process(pid)
        full = process.memory_full_info()
        return Memory(uss=full.uss, pss=getattr(full, "pss", full.uss), rss=full.rss, descriptors=process.num_fds())
    except psutil.AccessDenied as error:
        raise PermissionError(f"process {pid} cannot be read; expected one that is ours") from error
    except psutil.Error as error:
        raise ProcessLookupError(f"process {pid} is gone: {error}") from error
