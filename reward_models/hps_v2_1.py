"""HPS v2.1: HPS v2 trained on better data, with a scale of its own."""

from __future__ import annotations

from reward_models.hps_v2 import HpsV2


class HpsV21(HpsV2):
    """100·cos(picture, prompt) by the weights HPS_v2.1_compressed.pt of xswu/HPSv2; all else as HpsV2. Its scores run higher than v2's."""

    name = "hps_v2_1"
