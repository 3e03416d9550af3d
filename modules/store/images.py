"""Images of messages: each file once, by its hash, as long as a message has it.

Knows the two tables and how rows of messages refer to them; whose a message is, its caller has checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from modules.core.messages import ImageKind
from modules.store.records import NewImage, StoredImage
from modules.store.schema import images, message_images

ID_BATCH = 500  # SQLite takes a limited number of values in one statement


def put_images(connection: Connection, rows: Iterable[tuple[str, Sequence[NewImage | StoredImage]]]) -> None:
    """Give images to messages that have just been stored."""
    for message_id, added in rows:
        for place, image in enumerate(added):
            key = image.hash if isinstance(image, StoredImage) else _stored(connection, image)
            connection.execute(insert(message_images).values(message_id=message_id, place=place, hash=key))


def _stored(connection: Connection, image: NewImage) -> str:
    key = hashlib.sha256(image.file).hexdigest()
    connection.execute(insert(images).values(hash=key, kind=image.kind, file=image.file).on_conflict_do_nothing())
    return key


def images_of(connection: Connection, message_ids: Sequence[str]) -> dict[str, tuple[StoredImage, ...]]:
    """The images of those messages that have any, in their order."""
    found: dict[str, list[StoredImage]] = {}
    for start in range(0, len(message_ids), ID_BATCH):
        query = (
            select(message_images.c.message_id, message_images.c.hash, images.c.kind)
            .join(images, images.c.hash == message_images.c.hash)
            .where(message_images.c.message_id.in_(message_ids[start : start + ID_BATCH]))
            .order_by(message_images.c.message_id, message_images.c.place)
        )
        for row in connection.execute(query):
            kind: ImageKind = row.kind
            found.setdefault(row.message_id, []).append(StoredImage(kind, row.hash))
    return {message_id: tuple(row) for message_id, row in found.items()}


def file_of(connection: Connection, key: str) -> bytes | None:
    """The bytes of an image file; None when there is none."""
    return connection.execute(select(images.c.file).where(images.c.hash == key)).scalar_one_or_none()
