"""The resource `DatasetBuild`: from raw documents to token shards with a manifest.

Owns every field, bound and default of it. The spec never changes: a build is a pure function of its inputs, so other
inputs are another build. Every source states its licence and where it comes from.
"""

from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictBool, StrictInt, StringConstraints

from tessera_api.quantity import DecimalString
from tessera_api.resource import (
    API_VERSION,
    DATE_PATTERN,
    NAME_RULE,
    Conditions,
    Day,
    Document,
    Line,
    Metadata,
    Name,
    SecretName,
    Sha256,
    Uri,
    keyed,
    listed,
    unique,
    unique_by,
)
from tessera_api.rules import Freeze, Rule, above, exactly_one

DEFAULT_TEXT_FIELD, DEFAULT_MESSAGES_FIELD = "text", "messages"

_LICENCE_WORD = r"\(*[A-Za-z0-9][-.+:A-Za-z0-9]*\)*"
LICENCE_PATTERN = rf"^{_LICENCE_WORD}( (AND|OR|WITH) {_LICENCE_WORD})*$"

_NEW_BUILD = "a build is a function of its inputs, so create a new one under another name"


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


class Content(StrEnum):
    """What a dataset holds."""

    TEXT = "text"
    """Documents, of which every token is learned."""
    CHAT = "chat"
    """Conversations, of which answers are learned."""


class Learned(StrEnum):
    """Which messages of a conversation are learned; the others are read only."""

    ANSWERS = "Answers"
    """All of the assistant."""
    LAST_ANSWER = "LastAnswer"
    """The last of them."""
    MARKED = "Marked"
    """Those of the assistant that have a field `train` that is true."""


class SourceFormat(StrEnum):
    """How the documents of a source are stored."""

    TEXT = "text"
    JSONL = "jsonl"
    PARQUET = "parquet"


class Provenance(Document):
    """Where the documents of a source come from."""

    owner: Line
    """Who published or owns them."""
    collected: Day
    """Day on which they were collected, such as 2026-11-01."""
    method: Line
    """How they were collected."""
    synthetic: StrictBool
    """Whether a model wrote them."""

    RULES = (
        # The schema's own `format: date` is no help: the API server then takes an object for a text.
        Rule(
            cel=f"!self.collected.matches('{DATE_PATTERN}') || !format.date().validate(self.collected).hasValue()",
            reads=("collected",),
            holds=_is_day,
            words="collected is {collected}: there is no such day",
            remedy="write a day of the calendar as YEAR-MONTH-DAY",
            field_path="collected",
        ),
    )


class Source(Document):
    """One place that documents are read from."""

    name: Name
    """Name of the source in counts and reports."""
    uri: Uri
    """A file or a folder: file:///folder or s3://bucket/prefix."""
    include: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...],
        Field(min_length=1, max_length=32, json_schema_extra=listed("set")),
        unique(),
    ] = ("**/*",)
    """Patterns of the files to read below a folder; ** stands for any folders."""
    format: SourceFormat
    """How the documents are stored: a text file is one document, a jsonl line or a parquet row is one document."""
    text_field: Line | None = None
    """Field (jsonl) or column (parquet) that holds the text; text when absent."""
    messages_field: Line | None = None
    """Of conversations: field or column that holds the messages, a list of {role, content}; messages when absent."""
    prompt_field: Line | None = None
    """Of conversations of one prompt and one response: field or column that holds the prompt,"""
    response_field: Line | None = None
    """and the one that holds the response."""
    learn: Learned | None = None
    """Which messages of its conversations are learned: Answers (when absent), LastAnswer or Marked."""
    licence: Annotated[str, StringConstraints(max_length=256, pattern=LICENCE_PATTERN)]
    """Licence of the documents, an SPDX expression."""
    provenance: Provenance
    """Where the documents come from."""

    RULES = (
        Rule(
            cel="!has(self.textField) || self.format != 'text'",
            reads=("format", "textField?"),
            holds=lambda form, has_field: not has_field or form is not SourceFormat.TEXT,
            words="textField belongs to formats jsonl and parquet, and format is {format}",
            remedy="remove textField, or set format to jsonl or parquet",
            field_path="textField",
        ),
        Rule(
            cel="has(self.promptField) == has(self.responseField)",
            reads=("promptField?", "responseField?"),
            holds=lambda has_prompt, has_response: bool(has_prompt == has_response),
            words="promptField and responseField must be given together",
            remedy="give both, or neither",
        ),
        Rule(
            cel="!has(self.promptField) || !has(self.messagesField)",
            reads=("promptField?", "messagesField?"),
            holds=lambda has_prompt, has_messages: not (has_prompt and has_messages),
            words="promptField and messagesField exclude each other",
            remedy="keep messagesField, or promptField and responseField",
            field_path="messagesField",
        ),
    )

    @property
    def text_column(self) -> str:
        """Field or column that holds the text."""
        return DEFAULT_TEXT_FIELD if self.text_field is None else self.text_field

    @property
    def conversation_columns(self) -> tuple[str, ...]:
        """Fields or columns that hold a conversation: one with messages, or prompt and response."""
        if self.prompt_field is not None and self.response_field is not None:
            return self.prompt_field, self.response_field
        return (DEFAULT_MESSAGES_FIELD if self.messages_field is None else self.messages_field,)

    @property
    def learned(self) -> Learned:
        """Which messages are learned."""
        return Learned.ANSWERS if self.learn is None else self.learn

    @property
    def of_chat(self) -> bool:
        """Whether anything is said that belongs to conversations."""
        said = (self.messages_field, self.prompt_field, self.response_field, self.learn)
        return any(each is not None for each in said)


class TokenizerTraining(Document):
    """A byte-level BPE tokenizer that is trained on the training part of the documents."""

    vocabulary_size: Annotated[StrictInt, Field(ge=300, le=1_048_576)]
    """Tokens in the vocabulary."""


class ChatTemplate(Document):
    """A chat template, as a model's folder has it."""

    uri: Uri
    """A chat_template.jinja, or a tokenizer_config.json with a chat_template in it."""
    sha256: Sha256
    """Digest of that file, hexadecimal."""


class TokenizerSpec(Document):
    """The tokenizer: trained in the build, or a file that is pinned by its digest."""

    train: TokenizerTraining | None = None
    """Train one in the build."""
    uri: Uri | None = None
    """A tokenizer.json of the Hugging Face tokenizers library."""
    sha256: Sha256 | None = None
    """Digest of that file, hexadecimal."""
    chat_template: ChatTemplate | None = None
    """How its model writes conversations; for content chat."""

    RULES = (
        Rule(
            cel="!has(self.chatTemplate) || has(self.uri)",
            reads=("chatTemplate?", "uri?"),
            holds=lambda has_template, has_uri: has_uri or not has_template,
            words="a chatTemplate belongs to a tokenizer that there is",
            remedy="give the uri and sha256 of the tokenizer that it was made for",
            field_path="chatTemplate",
        ),
        exactly_one("train", "uri", "keep one of them: a tokenizer to train, or one to read"),
        Rule(
            cel="has(self.uri) == has(self.sha256)",
            reads=("uri?", "sha256?"),
            holds=lambda has_uri, has_digest: bool(has_uri == has_digest),
            words="uri and sha256 must be given together",
            remedy="give the tokenizer's uri and the sha256 of its file, or neither",
        ),
    )


class HeldOut(Document):
    """The documents that are kept out of training, to measure the model on."""

    share: DecimalString = Decimal("0.01")
    """Share of the documents, a decimal string; which ones is decided by their content alone."""

    RULES = (above("share", "0", "0.5"),)


class Output(Document):
    """Where the dataset is published."""

    uri: Uri
    """s3://bucket/prefix or file:///folder; the dataset's folder is made below it."""
    secret_ref: SecretName | None = None
    """Credentials for object storage, of sources and output; needed on a cluster only."""


class DatasetBuildSpec(Document):
    """What is wanted of a build."""

    sources: Annotated[
        tuple[Source, ...], Field(min_length=1, max_length=64, json_schema_extra=keyed("name")), unique_by("name")
    ]
    """Where the documents are read from, each source once."""
    content: Content
    """What the documents are."""
    tokenizer: TokenizerSpec
    """The tokenizer."""
    held_out: HeldOut = HeldOut()
    """The documents that are kept out of training."""
    output: Output
    """Where the dataset is published."""
    workers: Annotated[StrictInt, Field(ge=1, le=256)] = 1
    """Pods that build at a time, on a cluster; the dataset is the same with any number."""

    RULES = (
        Rule(
            cel="(self.content == 'chat') == has(self.tokenizer.chatTemplate)",
            reads=("content", "tokenizer.chatTemplate?"),
            holds=lambda content, has_template: (content is Content.CHAT) == has_template,
            words="content {content} and tokenizer.chatTemplate do not go together",
            remedy="give tokenizer.chatTemplate for content chat, and for no other",
            field_path="tokenizer",
        ),
        Rule(
            cel="self.content == 'chat' || !self.sources.exists(s,"
            " has(s.messagesField) || has(s.promptField) || has(s.learn))",
            reads=("content", "sources"),
            holds=lambda content, sources: content is Content.CHAT or not any(source.of_chat for source in sources),
            words="messagesField, promptField, responseField and learn are of content chat, and content is {content}",
            remedy="remove them, or set content to chat",
            field_path="sources",
        ),
        Rule(
            cel="self.content != 'chat' || !self.sources.exists(s, s.format == 'text' || has(s.textField))",
            reads=("content", "sources"),
            holds=lambda content, sources: (
                content is not Content.CHAT
                or not any(source.format is SourceFormat.TEXT or source.text_field is not None for source in sources)
            ),
            words="conversations come as jsonl or parquet, without a textField",
            remedy="set format to jsonl or parquet, and name messagesField, or promptField and responseField",
            field_path="sources",
        ),
    )
    FREEZES = tuple(
        Freeze(field, _NEW_BUILD) for field in ("sources", "content", "tokenizer", "heldOut", "output", "workers")
    )


class BuildPhase(StrEnum):
    """One word for people; no program may read it."""

    PENDING = "Pending"
    BUILDING = "Building"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


_Shown = Annotated[str, StringConstraints(max_length=32)]
_Count = Annotated[StrictInt, Field(ge=0, le=10**15)]


class DatasetBuildStatus(Document):
    """What is known of a build. Every field is optional."""

    conditions: Conditions | None = None
    """What holds and what does not; `Succeeded` is Unknown until the build ends."""
    observed_generation: Annotated[StrictInt, Field(ge=0)] | None = None
    """The generation of the resource that this status was computed for."""
    phase: BuildPhase | None = None
    """One word for people, computed from the conditions."""
    chunks: _Shown | None = None
    """Chunks done of all chunks, such as 12/40."""
    documents: _Count | None = None
    """Documents in the dataset."""
    tokens: _Count | None = None
    """Tokens in the dataset."""
    learned: _Count | None = None
    """Those of them that are learned, where the dataset holds conversations."""
    fingerprint: Sha256 | None = None
    """Digest of everything that decides the dataset's bytes."""
    manifest: Uri | None = None
    """The dataset's manifest, once it is published."""
    manifest_sha256: Sha256 | None = None
    """Digest of the manifest's bytes."""
    tokenizer_sha256: Sha256 | None = None
    """Digest of the tokenizer.json that its tokens were made with."""
    vocabulary: _Count | None = None
    """Tokens that the tokenizer knows."""


class DatasetBuild(Document):
    """A dataset for training: token shards with a manifest, built from raw documents."""

    api_version: Literal["tessera.dev/v1alpha1"] = API_VERSION
    kind: Literal["DatasetBuild"] = "DatasetBuild"
    metadata: Metadata
    """Who it is, such as metadata: {name: NAME}."""
    spec: DatasetBuildSpec
    """What is wanted of the build."""
    status: DatasetBuildStatus | None = None
    """What is known of the build."""

    RULES: ClassVar[tuple[Rule, ...]] = (NAME_RULE,)
