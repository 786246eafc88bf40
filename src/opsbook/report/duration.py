"""Lengths and points of time as people read them. Words do not depend on the locale; points are in local time."""

from __future__ import annotations

from datetime import datetime

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEK = 7


def format_duration(seconds: float) -> str:
    """Say a length of time in minutes and seconds; a clock that went backwards counts as none.

    >>> format_duration(4.1), format_duration(432), format_duration(3723)
    ('0:04', '7:12', '1:02:03')
    """
    whole = max(0, int(seconds + 0.5))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_seconds(seconds: float) -> str:
    """Say a length of time in seconds, for a log: tenths below ten.

    >>> format_seconds(4.12), format_seconds(127.3)
    ('4.1s', '127s')
    """
    shown = max(0.0, seconds)
    return f"{shown:.1f}s" if round(shown, 1) < 10 else f"{shown:.0f}s"  # noqa: PLR2004  where tenths stop to matter


def format_when(then: datetime, now: datetime) -> str:
    """Say a point of time as briefly as it stays clear: `today 11:39`, `Thu 17:10`, `3 Nov`, `2025-11-03`.

    >>> format_when(datetime(2026, 11, 20, 11, 39), datetime(2026, 11, 20, 12, 0))
    'today 11:39'
    """
    then, now = then.astimezone(), now.astimezone()
    days = (now.date() - then.date()).days
    if days == 0:
        return f"today {then:%H:%M}"
    if 0 < days < _WEEK:
        return f"{_DAYS[then.weekday()]} {then:%H:%M}"
    if days > 0 and then.year == now.year:
        return f"{then.day} {_MONTHS[then.month - 1]}"
    return then.date().isoformat()


def format_stamp(then: datetime) -> str:
    """Say a point of time in full, to the minute, in local time."""
    return f"{then.astimezone():%Y-%m-%d %H:%M}"
