"""A sound: a waveform with its rate, a file or bytes, decoded to float32 on demand and once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from math import ceil, gcd
from pathlib import Path
from typing import Any, cast

import numpy as np

from diffalign.data.modalities.stored import Stored, library, row_of, stored_bytes, stored_path, stored_row

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF", "RF64")
MAX_SECONDS = 1200.0
MAX_VALUES = 230_000_000  # samples of all channels together, 0.9 GB: 20 minutes of stereo at 96 kHz
SHORTER = re.compile(r"(\d+) \(should be (\d+)\)")  # how libsndfile says that a file ends before its header says
STREAMED = 0x7FFF0000  # a header written before the length was known says more than this
OGG_PAGE, OGG_LAST = 27 + 255 + 255 * 255, 0x04  # the most bytes of a page, its flag that the stream ends there (RFC 3533)
LARGEST_KERNEL = 4_000_000  # weights that torchaudio holds for two rates, of 8 bytes: 44,100 and 16,000 Hz share much and take 70,000
BLOCK_TAPS = 1_000_000  # weights at once where it would hold more
FULL_SCALE = 32768  # of 16 bits, which reach from −32768 to 32767


@dataclass(frozen=True)
class Level:
    """How high the samples of a sound are, over all channels.

    peak     the largest magnitude; above 1 where a lossy format overshoots
    clipped  share of samples at full scale or beyond
    """

    peak: float
    clipped: float


class Audio:
    """One sound of one or more channels. Build it with from_waveform, from_path, from_bytes or from_row; equality is `identity()`.

    Opening nothing until asked; `columns` reads the header alone. What is built from a waveform is rounded to 16 bits at once, so that it
    stays the same through its file. Every reading error is a ValueError that names the file or row and the fix.
    """

    COLUMNS = ("samples", "sample_rate_hz", "channels")  # beside `media` in a table of candidates

    __slots__ = ("_header", "_level", "_stored", "_waveform", "path")

    def __init__(self, waveform: np.ndarray | None, sample_rate_hz: int, stored: Stored | None, path: str = "") -> None:
        self._waveform, self._stored = waveform, stored
        self._header: tuple[int, int, int] | None = None if waveform is None else (waveform.shape[1], sample_rate_hz, len(waveform))
        self._level: Level | None = None
        self.path = path if stored is None else stored.path

    @classmethod
    def from_waveform(cls, waveform: np.ndarray, sample_rate_hz: int, path: str = "") -> Audio:
        """Of float numbers (channels, samples) in [−1, 1]; beyond that they are clipped, as a file would clip them."""
        is_array = isinstance(waveform, np.ndarray) and waveform.ndim == 2 and np.issubdtype(waveform.dtype, np.floating)
        if not is_array or not 1 <= len(waveform) <= 8 or not waveform.size:
            found = f"{waveform.dtype} {waveform.shape}" if isinstance(waveform, np.ndarray) else type(waveform).__name__
            raise ValueError(f"a sound is a numpy array of floats (channels, samples), 1 to 8 channels, got {found}; mono is (1, samples)")
        if not np.isfinite(waveform).all():
            raise ValueError(f"a sound has {int((~np.isfinite(waveform)).sum())} samples that are not finite; its model diverged")
        if not 1000 <= sample_rate_hz <= 384_000:
            raise ValueError(f"a sound has {sample_rate_hz!r} samples per second; give 1,000 to 384,000")
        rounded = np.rint(np.clip(waveform * FULL_SCALE, -FULL_SCALE, FULL_SCALE - 1)).astype(np.int16)
        return cls((rounded / np.float32(FULL_SCALE)).astype(np.float32), int(sample_rate_hz), None, path)

    @classmethod
    def from_path(cls, path: str | Path) -> Audio:
        """Of a file, read when asked. FileNotFoundError at once where there is none."""
        return cls(None, 0, stored_path("audio", path))

    @classmethod
    def from_bytes(cls, data: bytes, path: str = "", name: str = "") -> Audio:
        """Of an encoded file's bytes; `path` and `name` (of the row) only name it in messages: neither is opened."""
        return cls(None, 0, stored_bytes("audio", data, path, name))

    @classmethod
    def from_row(cls, row: dict[str, Any], name: str = "") -> Audio:
        """Of a media column's value {"bytes", "path"}. A path without bytes is refused: nothing from data names a file to open."""
        return cls(None, 0, stored_row("audio", row, name))

    @staticmethod
    def feature() -> dict[str, Any]:
        """The `datasets` feature of a media column, in the form of the `huggingface` schema metadata."""
        return {"_type": "Audio"}

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second and channel."""
        return self._read_header()[1]

    @property
    def seconds(self) -> float:
        samples, rate, _ = self._read_header()
        return samples / rate

    @property
    def columns(self) -> dict[str, Any]:
        """The values of COLUMNS."""
        return dict(zip(self.COLUMNS, self._read_header(), strict=True))

    def waveform(self) -> np.ndarray:
        """float32 (channels, samples) in [−1, 1], decoded at the first call and kept. Do not write into it: `identity()` is its hash."""
        if self._waveform is None:
            self._waveform = self._decode()
        return self._waveform

    def check(self) -> None:
        """Decode and let go: ValueError where it cannot be read to its end. For many sounds that are not needed yet."""
        self.level()

    def level(self) -> Level:
        """How high its samples are; decoded for that where it was not, and let go."""
        if self._level is None:
            height = np.abs(self._decode() if self._waveform is None else self._waveform)
            self._level = Level(float(height.max()), float((height >= (FULL_SCALE - 1) / FULL_SCALE).mean()))
        return self._level

    @staticmethod
    def shape_of(columns: Mapping[str, Any], rate: float | None) -> tuple[int, ...]:
        """(samples,) of a sound with such COLUMNS, at `rate` samples per second."""
        own = columns["sample_rate_hz"]
        return (-(-columns["samples"] * round(rate or own) // own),)

    def tensor(self, shape: tuple[int, ...], rate: float | None, channels: int | None = None) -> np.ndarray:
        """float32 (channels, samples) in [−1, 1] of that many samples at `rate` per second, its beginning.

        channels  1 or None: the mean of both; 2: both, or mono twice. ValueError for another number, asked for or of the sound.
        """
        waveform = self._with_channels(channels or 1)
        if rate is not None and rate != self.sample_rate_hz:
            waveform = resample(waveform, self.sample_rate_hz, round(rate))
        if waveform.shape[1] < shape[-1]:
            wanted = f"{shape[-1]} samples at {rate or self.sample_rate_hz:g} Hz"
            raise ValueError(f"{self._named} lasts {self.seconds:.3g} s, too short for {wanted}")
        return np.ascontiguousarray(waveform[:, : shape[-1]])

    def _with_channels(self, wanted: int) -> np.ndarray:
        waveform = self._decode() if self._waveform is None else self._waveform
        if wanted not in (1, 2) or len(waveform) > 2:
            raise ValueError(
                f"{self._named} has {len(waveform)} channels, and {wanted} are wanted; models take mono or stereo: mix it down"
            )
        return waveform.mean(0, keepdims=True) if wanted == 1 else np.repeat(waveform, 2 // len(waveform), 0)

    def encoded(self) -> bytes:
        """The bytes it came as (of its file, unchanged), or FLAC of its samples."""
        if self._stored is not None:
            if self._stored.data is None:
                self.check()  # a file that is no sound is refused before its bytes are copied anywhere
            return self._stored.read()
        soundfile = library("soundfile", "audio")
        buffer = BytesIO()
        samples = np.rint(self.waveform().T * FULL_SCALE).astype(np.int16)
        soundfile.write(buffer, samples, self.sample_rate_hz, format="FLAC", subtype="PCM_16")
        return buffer.getvalue()

    def identity(self) -> str:
        """sha256 (hex) of rate, channels and samples: a WAV and the FLAC made from it agree."""
        waveform = self.waveform()
        return sha256(f"{len(waveform)}x{waveform.shape[1]}@{self.sample_rate_hz}:".encode() + waveform.tobytes()).hexdigest()

    def to_row(self) -> dict[str, Any]:
        """The value of a media column: bytes, and the bare file name (no folder of this machine gets into a data set)."""
        return row_of(self.encoded(), self.path)

    def __repr__(self) -> str:
        return f"<{self._named}>"

    @property
    def _named(self) -> str:
        return str(self._stored or "audio (from a waveform)")

    def _read_header(self) -> tuple[int, int, int]:
        """(samples, sample_rate_hz, channels)."""
        if self._header is None:
            with self._opened() as file:
                self._header = (file.frames, file.samplerate, file.channels)
        return self._header

    def _decode(self) -> np.ndarray:
        with self._opened() as file:
            waveform = np.ascontiguousarray(file.read(dtype="float32", always_2d=True).T)
            if waveform.shape[1] < file.frames:
                raise ValueError(f"it holds {waveform.shape[1]} of its {file.frames} samples")
            if not np.isfinite(waveform).all():
                raise ValueError("it has samples that are not finite")
            self._header = (waveform.shape[1], file.samplerate, file.channels)
        return waveform

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The file with a checked header, and whatever goes wrong in it as a ValueError that names it."""
        soundfile = library("soundfile", "audio")
        try:
            with soundfile.SoundFile(cast("Stored", self._stored).source()) as file:
                if file.format not in FORMATS:
                    raise ValueError(f"it is {file.format}")
                found = SHORTER.search(file.extra_info)
                if found and int(found[2]) < int(found[1]) < STREAMED:
                    raise ValueError(f"it holds {found[2]} of its {found[1]} bytes")
                if file.format == "OGG" and not _ends_a_stream(cast("Stored", self._stored).tail(OGG_PAGE)):
                    raise ValueError("it stops before its stream ends")
                if file.frames < 1:
                    raise ValueError("it holds no samples")
                if file.frames > MAX_SECONDS * file.samplerate or file.frames * file.channels > MAX_VALUES:
                    lasts = f"it lasts {file.frames / file.samplerate:.0f} s with {file.channels} channels"
                    raise ValueError(f"{lasts}, and at most {MAX_SECONDS:.0f} s and {MAX_VALUES:,} samples are read: cut it")
                yield file
        except Exception as error:  # damaged files make libsndfile raise anything
            reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{self._named} cannot be read ({reason}); it must be a whole file in one of {', '.join(FORMATS)}: "
                "fetch it again or drop the row"
            ) from error


def _ends_a_stream(tail: bytes) -> bool:
    """Whether an OGG file with these last bytes ends with the last page of a stream; no header of it says how long it is."""
    for found in re.finditer(rb"OggS", tail):
        page = tail[found.start() :]
        lengths = page[27 : 27 + page[26]] if len(page) > 27 else b""
        if lengths and page[5] & OGG_LAST and len(page) == 27 + len(lengths) + sum(lengths):
            return True
    return False


def resample(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """float32 (channels, samples) at another rate, band-limited (torchaudio's windowed sinc)."""
    divisor = gcd(rate, wanted)
    if rate // divisor * (wanted // divisor) > LARGEST_KERNEL:
        return _windowed_sinc(waveform, rate // divisor, wanted // divisor)
    import torch

    functional = library("torchaudio.functional", "audio")
    return functional.resample(torch.from_numpy(waveform), rate, wanted).numpy()


def _windowed_sinc(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same filter, its weights made for each sample: torchaudio holds those of all phases, gigabytes where rates are coprime."""
    band, crossings = 0.99 * min(1.0, wanted / rate), 6  # torchaudio's own: of the input's Nyquist frequency; on either side
    reach = ceil(crossings / band)
    padded = np.pad(waveform, ((0, 0), (reach, reach + 1)))
    count = -(-waveform.shape[1] * wanted // rate)
    found = np.empty((len(waveform), count), np.float32)
    taps, block = np.arange(-reach, reach + 2), max(1, BLOCK_TAPS // (2 * reach + 2))
    for start in range(0, count, block):
        centre, phase = np.divmod(np.arange(start, min(count, start + block)) * rate, wanted)
        times = np.clip((taps - phase[:, None] / wanted) * band, -crossings, crossings)
        weights = np.sinc(times) * np.cos(times * np.pi / 2 / crossings) ** 2 * band
        pieces = padded[:, centre[:, None] + taps + reach]
        found[:, start : start + block] = np.einsum("cnt,nt->cn", pieces, weights)
    return found
