"""The tables. A job is one request, a generation one variant of its answer (and what is rated),
a model version is what made it, a retraining is how one is made out of the votes. Portable column
types only: SQLite and PostgreSQL.
"""

import enum
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

# SQLite numbers rows by itself only in a column that is exactly INTEGER.
BigId = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment with its zone; SQLite stores it without and gives UTC back here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, f"a moment without a zone: {value}"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(UTC)


class JobStatus(enum.StrEnum):
    """Where a job stands; the arrows between them are in ``db.jobs``."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RetrainingStatus(enum.StrEnum):
    """Where a retraining stands; the arrows between them are in ``db.retraining``."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class VersionStatus(enum.StrEnum):
    """Whether a model version may answer readers."""

    CANDIDATE = "candidate"
    ACTIVE = "active"
    RETIRED = "retired"


def _words(kind: type[enum.StrEnum]) -> Enum:
    """Return a column type that stores the words themselves, as plain text."""
    return Enum(
        kind,
        native_enum=False,
        length=16,
        validate_strings=True,
        values_callable=lambda words: [word.value for word in words],
    )


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class User(Base):
    """A reader, known by his Telegram id."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    language: Mapped[str] = mapped_column(String(8))  # "ru" or "en": what he is answered in
    consent: Mapped[bool | None]  # may his votes train a model; None: not asked yet, so no
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class ModelVersion(Base):
    """A model that has answered or may answer readers."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("name", "version"),
        CheckConstraint("share >= 0 AND share <= 1", name="share"),
        # No two are active at once.
        Index(
            None,
            "status",
            unique=True,
            sqlite_where=text("status = 'active'"),
            postgresql_where=text("status = 'active'"),
        ),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(64))
    status: Mapped[VersionStatus] = mapped_column(_words(VersionStatus))
    folder: Mapped[str | None] = mapped_column(String(500))  # None: what a worker was started with
    share: Mapped[float] = mapped_column(default=0.0)  # of the stories, for a candidate on trial
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("model_versions.id"))
    prompt_tokens: Mapped[int]  # the longest opening it takes
    prompt_characters: Mapped[int]  # the same in characters of Russian prose, about
    meta: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    served_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # a worker last started with it
    retired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # it last answered readers
    trouble: Mapped[str | None] = mapped_column(Text)  # why a worker could not load it


class Job(Base):
    """One request of a user; a row of the queue."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "status", "available_at"),
        Index(None, "delivered_at"),
        Index(None, "chat_id", "message_id"),
        UniqueConstraint("chat_id", "request_message_id"),  # an update that comes twice
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    # Where the answer goes: drafts work in private chats only.
    chat_id: Mapped[int] = mapped_column(BigInteger)
    private: Mapped[bool]
    request_message_id: Mapped[int] = mapped_column(BigInteger)
    placeholder_id: Mapped[int | None] = mapped_column(BigInteger)
    message_id: Mapped[int | None] = mapped_column(BigInteger)  # the delivered story's buttons
    # What to write.
    prompt: Mapped[str] = mapped_column(Text)
    context: Mapped[str] = mapped_column(Text)  # the story so far, when this one continues it
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    # Where it stands.
    status: Mapped[JobStatus] = mapped_column(_words(JobStatus))
    attempts: Mapped[int] = mapped_column(default=0)
    partial: Mapped[str] = mapped_column(Text, default="")  # the text so far, streamed
    worker: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str | None] = mapped_column(Text)
    available_at: Mapped[datetime] = mapped_column(UtcDateTime)  # not to be claimed before
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    user: Mapped[User] = relationship()
    generations: Mapped[list["Generation"]] = relationship(
        back_populates="job", order_by="Generation.variant"
    )


class Generation(Base):
    """One variant of a job's answer."""

    __tablename__ = "generations"
    __table_args__ = (UniqueConstraint("job_id", "variant"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    variant: Mapped[int]
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_versions.id"), index=True)
    text: Mapped[str] = mapped_column(Text)
    seed: Mapped[int] = mapped_column(BigInteger)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)  # the sampling settings used
    tokens: Mapped[int]
    finish_reason: Mapped[str] = mapped_column(String(16))  # "stop" or "length"
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime] = mapped_column(UtcDateTime)

    job: Mapped[Job] = relationship(back_populates="generations")
    model_version: Mapped[ModelVersion] = relationship()


class Rating(Base):
    """One reader's vote on one generation; he may change it."""

    __tablename__ = "ratings"
    __table_args__ = (
        UniqueConstraint("generation_id", "user_id"),
        CheckConstraint("value IN (-1, 1)", name="value"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    generation_id: Mapped[int] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    value: Mapped[int]  # 1 liked, -1 disliked
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Retraining(Base):
    """One request of an admin to train a new version on the readers' votes."""

    __tablename__ = "retrainings"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    # Who hears of it, and where; not a foreign key: an admin need not be a reader.
    requested_by: Mapped[int] = mapped_column(BigInteger)
    chat_id: Mapped[int] = mapped_column(BigInteger)
    message_id: Mapped[int | None] = mapped_column(BigInteger)  # shows the progress
    language: Mapped[str] = mapped_column(String(8))
    # Where it stands.
    status: Mapped[RetrainingStatus] = mapped_column(_words(RetrainingStatus))
    phase: Mapped[str] = mapped_column(String(32), default="")  # "" before the first
    progress: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)  # step, steps, loss, …
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    # What came out: tables before and after, stories, the verdict; and the version, if one did.
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None] = mapped_column(Text)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("model_versions.id"))
    worker: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
