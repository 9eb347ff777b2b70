"""What is sent of the deferred inputs: compressed pictures, and no message above the limit."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.cloud.base import Cloud
from edge_runtime.errors import CloudRejectedError, DependencyError, SettingError
from edge_runtime.inputs.batches import Batch, as_objects, max_request_bytes

Encoding = Literal["jpeg", "png"]
MAX_MESSAGE_MIB: Final = 16
"""The largest message that a server of `cloud_stub` takes by default."""
_MIB: Final = 2**20
_FOREIGN_MIB: Final = 64
"""The largest message that is sent at all; what a foreign engine takes is not known."""
_MOST_QUALITY: Final = 100
_COMPRESSED: Final = 0.5  # a file below this share of its pixels' bytes is sent as it is


@dataclass(frozen=True)
class Compression:
    """How deferred pictures are encoded before they are sent.

    Attributes:
        encode: `jpeg`, or `png`, which changes no pixel unless `max_side` does; None encodes
            nothing.
        quality: Quality of a JPEG, 1 to 100.
        max_side: Longest side in pixels; larger pictures are scaled down. None keeps their size.

    Raises:
        SettingError: A setting is out of range, or needs `encode`.
    """

    encode: Encoding | None = None
    quality: int = 90
    max_side: int | None = None

    def __post_init__(self) -> None:
        if self.encode is not None and self.encode not in get_args(Encoding):
            raise SettingError(f"expected encode 'jpeg' or 'png', got {self.encode!r}")
        if not 1 <= self.quality <= _MOST_QUALITY:
            raise SettingError(f"expected a quality from 1 to 100, got {self.quality}")
        if self.max_side is not None and self.max_side < 1:
            raise SettingError(f"expected max_side of at least 1 pixel, got {self.max_side}")
        if self.max_side is not None and self.encode is None:
            raise SettingError(
                "expected encode with max_side, got none: set encode='jpeg' (--encode)"
            )

    def require_usable(self, cloud: Cloud | None, input_name: str) -> None:
        """Raise a `SettingError` where encoded pictures cannot be sent."""
        if self.encode is None:
            return
        if input_name != contract.IMAGE:
            raise SettingError(
                f"expected a bundle that takes pictures with encode, this one takes "
                f"{input_name!r}: leave encode out"
            )
        if cloud is not None and not cloud.takes_files:
            raise SettingError(
                "expected a cloud that decodes files with encode, this one takes arrays alone: "
                "leave encode out, or use a server of `python -m cloud_stub`"
            )
        try:
            import PIL.Image  # noqa: F401
        except ImportError:
            raise DependencyError("Pillow", "encoding pictures", "image") from None

    def __call__(self, picture: npt.NDArray[np.uint8]) -> bytes:
        """Return a picture uint8 [height, width, 3] as a file."""
        from PIL import Image

        made = Image.fromarray(picture)
        if self.max_side is not None:
            made.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        options: dict[str, Any] = (
            {"quality": self.quality} if self.encode == "jpeg" else {"compress_level": 1}
        )
        made.save(file, self.encode, **options)
        return file.getvalue()

    def keeps(self, file: bytes, picture: npt.NDArray[np.uint8]) -> bool:
        """Return whether a picture's own file is sent: small enough, and compressed already."""
        side = max(picture.shape[:2])
        is_small = self.max_side is None or side <= self.max_side
        return is_small and len(file) < _COMPRESSED * picture.nbytes


@dataclass(frozen=True)
class Outgoing:
    """Prepares the deferred rows of a batch for M_L.

    Attributes:
        compression: How pictures are encoded.
        max_message_mib: Largest message in MiB; None for what the kind of server takes by default.

    Raises:
        SettingError: The limit is below 1 MiB.
    """

    compression: Compression = Compression()
    max_message_mib: int | None = None

    def __post_init__(self) -> None:
        if self.max_message_mib is not None and self.max_message_mib < 1:
            raise SettingError(
                f"expected max_message_mib of at least 1, got {self.max_message_mib}"
            )

    def payload(
        self,
        batch: Batch,
        rows: npt.NDArray[np.intp],
        cloud: Cloud,
        packed: dict[int, bytes],
    ) -> tuple[npt.NDArray[Any], int]:
        """Return some rows as they are sent, and the most bytes that their message has.

        Args:
            batch: The inputs of a call.
            rows: Indices of the rows, int [m].
            cloud: M_L.
            packed: The rows of this call that are encoded already; the others are added.

        Raises:
            CloudRejectedError: The message would exceed the limit; nothing is sent.
        """
        payload = self._encoded(batch, rows, packed) if cloud.takes_files else None
        if payload is None:
            payload = batch.payload(rows, as_files=cloud.takes_files)
        size = max_request_bytes(payload)
        default = MAX_MESSAGE_MIB if cloud.takes_files else _FOREIGN_MIB
        limit = self.max_message_mib or default
        if size > limit * _MIB:
            raise CloudRejectedError(
                f"expected a message of at most {limit} MiB, {len(rows)} inputs have "
                f"{size / _MIB:.1f} MiB and were not sent: {self._remedy(cloud)}",
                is_divisible=True,
            )
        return payload, size

    def _encoded(
        self, batch: Batch, rows: npt.NDArray[np.intp], packed: dict[int, bytes]
    ) -> npt.NDArray[Any] | None:
        if self.compression.encode is None:
            return None
        for row in rows.tolist():
            if row not in packed:
                picture, file = batch.rows[row], batch.encoded[row] if batch.encoded else None
                is_kept = file is not None and self.compression.keeps(file, picture)
                packed[row] = file if file and is_kept else self.compression(picture)
        return as_objects([packed[row] for row in rows.tolist()])

    def _remedy(self, cloud: Cloud) -> str:
        raised = "raise max_message_mib here and --max-message-mib there"
        if not cloud.takes_files or self.compression.encode is not None:
            return f"send smaller ones, or {raised}"
        return f"set encode='jpeg' (--encode jpeg), or {raised}"
