"""A Hub in a process of its own, until its input ends: `python -m tests.loopback_hub FOLDER` says how to reach it.

One line of JSON is the environment of a client process.
"""

import json
import sys
from pathlib import Path

from .hub import running_hub

if __name__ == "__main__":
    with running_hub(Path(sys.argv[1])) as hub:
        print(json.dumps(hub.environment()), flush=True)
        sys.stdin.read()
