"""What the command lines of dst and analysis share."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable

from topo.names import unknown

__all__ = ["exit_status", "explain_choice"]


def exit_status(program: str, command: Callable[[], None]) -> int:
    """Run a command: 0 if all went well, 2 and one line for input that cannot be used."""
    plain = warnings.formatwarning
    warnings.formatwarning = lambda text, *_, **__: f"{program}: warning: {text}\n"
    try:
        command()
    except (ValueError, OSError, ImportError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"{program}: {str(interrupt) or 'stopped'}", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = plain
    return 0


def explain_choice(message: str) -> str:
    """Add the nearest right name to argparse's complaint about a wrong choice."""
    if match := re.search(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message):
        kind = match[1].split(".")[-1]
        return unknown(match[2], re.findall(r"[\w-]+", match[3]), kind)
    return message
