"""Media as files the page can show: the numbered files of a gallery, and one store per kind of sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffalign.gallery import Sample
from diffalign.gallery.pictures import store_image
from diffalign.gallery.sounds import store_audio
from diffalign.gallery.videos import store_video

SHARD = 1000  # files in one folder


class MediaFolder:
    """Numbers the files under `root/media`, and counts the samples stored so far."""

    def __init__(self, root: Path, thumbnail_size: int, detail_size: int, progress: Callable[[int], None] | None) -> None:
        self.thumbnail_size, self.detail_size = thumbnail_size, detail_size  # pixels of the longer side
        self._root, self._progress = root, progress
        self._files = self._samples = 0
        self._shared: dict[str, dict[str, Any]] = {}  # by key

    def store(self, sample: Sample, where: str) -> dict[str, Any]:
        """Write one sample's files, if its key has none, and return what the page needs to show it; `where` names it in an error."""
        if sample.kind not in STORES:
            raise ValueError(f"{where} is of kind {sample.kind!r}; the gallery shows: {', '.join(STORES)}")
        files = self._shared.get(sample.key) or STORES[sample.kind](self, sample, where)
        if sample.key:
            self._shared[sample.key] = files
        record = {"kind": sample.kind, "id": str(sample.candidate_id), **files}
        self._samples += 1
        if self._progress is not None:
            self._progress(self._samples)
        return record

    def store_condition(self, condition: Any, where: str) -> dict[str, Any]:
        """Write the picture that a prompt came with, which is no sample; nothing where there is none."""
        return (
            {} if condition is None else {"condition": {"kind": "image", **store_image(self, Sample(condition, {}), f"{where}, condition")}}
        )

    def new_file(self, suffix: str) -> tuple[Path, str]:
        """The next file as a path to write, and as the address the page will use."""
        address = f"media/{self._files // SHARD:03d}/{self._files:06d}{suffix}"
        self._files += 1
        path = self._root / address
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, address


STORES: dict[str, Callable[[MediaFolder, Sample, str], dict[str, Any]]] = {
    "image": store_image,  # webp
    "video": store_video,  # H.264 in mp4, and a webp of the first frame
    "audio": store_audio,  # FLAC, and webp pictures of waveform and spectrum
}
