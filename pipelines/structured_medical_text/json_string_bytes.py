"""Bytes within a JSON string: what may follow what, and when a character is complete.

This file is copied into every checkpoint and imports nothing from clinsynth.
"""

import numpy as np

PLAIN, ESCAPE, NEED_1, NEED_2, NEED_3, AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4, AFTER_C2, CLOSED, DEAD = range(12)
"""States inside a JSON string: between characters, after a backslash, within a character of UTF-8 (by the number of
bytes that it lacks, or by a first byte that narrows the second), after the closing quote, and no way on."""
OPEN_STATES = 10
TOKENS_TO_PLAIN = np.array([0, 1, 1, 2, 3, 2, 2, 3, 3, 1], dtype=np.int16)
"""Tokens of one byte that lead from each open state to PLAIN."""
ESCAPED = b'"\\/nt'
"""What may follow a backslash. No \\u: every character is written as itself, and half a surrogate is none."""


def transitions() -> tuple[np.ndarray, np.ndarray]:
    """The next state and the characters completed (0 or 1), each (12, 256), for a state and a byte.

    UTF-8 by the Unicode Standard's table 3-7; control characters are refused.
    """
    step = np.full((12, 256), DEAD, dtype=np.uint8)
    done = np.zeros((12, 256), dtype=np.int16)
    step[PLAIN, 0x20:0x7F] = PLAIN
    step[PLAIN, ord("\\")], step[PLAIN, ord('"')] = ESCAPE, CLOSED
    step[PLAIN, 0xC2], step[PLAIN, 0xC3:0xE0], step[PLAIN, 0xE0] = AFTER_C2, NEED_1, AFTER_E0
    step[PLAIN, 0xE1:0xF0], step[PLAIN, 0xED], step[PLAIN, 0xF0] = NEED_2, AFTER_ED, AFTER_F0
    step[PLAIN, 0xF1:0xF4], step[PLAIN, 0xF4] = NEED_3, AFTER_F4
    step[ESCAPE, list(ESCAPED)] = PLAIN
    step[NEED_1, 0x80:0xC0], step[NEED_2, 0x80:0xC0], step[NEED_3, 0x80:0xC0] = PLAIN, NEED_1, NEED_2
    step[AFTER_C2, 0xA0:0xC0] = PLAIN
    step[AFTER_E0, 0xA0:0xC0], step[AFTER_ED, 0x80:0xA0] = NEED_1, NEED_1
    step[AFTER_F0, 0x90:0xC0], step[AFTER_F4, 0x80:0x90] = NEED_2, NEED_2
    step[CLOSED] = CLOSED
    done[:OPEN_STATES][step[:OPEN_STATES] == PLAIN] = 1
    return step, done


STEP, DONE = transitions()
