"""Clipping: how much of a sound is cut off at full scale."""

from __future__ import annotations

import numpy as np

from reward_models.waveforms import WaveformReward, mono

FULL_SCALE = 32_767 / 32_768  # the largest sample of 16 bits
SHORTEST_RUN = 3  # samples: a peak that merely touches full scale stays there for one or two


def clipping(waveform: np.ndarray) -> float:
    """Minus the share of samples in runs of at least `SHORTEST_RUN` at or over full scale, over all channels: 0 is clean, -1 all clipped.

    waveform: float (channels, samples). A run is of one sign, in one channel.
    """
    mono(waveform)  # refuses other shapes
    clipped = 0
    for channel in waveform:
        for is_full in (channel >= FULL_SCALE, channel <= -FULL_SCALE):
            changes = np.flatnonzero(np.diff(np.concatenate([[False], is_full, [False]]).astype(np.int8)))
            lengths = changes[1::2] - changes[::2]
            clipped += int(lengths[lengths >= SHORTEST_RUN].sum())
    return 0.0 if clipped == 0 else -clipped / waveform.size


class Clipping(WaveformReward):
    """Minus the share of clipped samples, so that higher is cleaner; no prompt, no weights."""

    name = "clipping"

    def measure(self, waveform: np.ndarray, sample_rate_hz: int) -> float:
        return clipping(waveform)
