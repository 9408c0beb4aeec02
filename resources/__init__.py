"""What a run talks to: providers, the ledger, the answers store and tables."""

from __future__ import annotations

from .errors import (
    AmbiguousError,
    BatchLLMError,
    BusyError,
    InputError,
    MissingExtraError,
    MissingSecretError,
    ProtocolError,
    ProviderError,
    RefusedError,
    StaleFenceError,
    StorageError,
    TableLockedError,
    UnreachableError,
    UserError,
)
from .ledger import Ledger
from .machine import BatchMachine
from .parquet_tables import ParquetTables
from .providers.anthropic import AnthropicBatch
from .providers.bedrock import BedrockBatch
from .providers.compatible import OpenAICompatibleBatch
from .providers.doubleword import DoublewordBatch
from .providers.local import LocalBatch
from .providers.openai import OpenAIBatch
from .providers.resource import BatchResource
from .table_store import TableStore
from .tables import DuckDBTables

__all__ = [
    "AmbiguousError",
    "AnthropicBatch",
    "BatchLLMError",
    "BatchMachine",
    "BatchResource",
    "BedrockBatch",
    "BusyError",
    "DoublewordBatch",
    "DuckDBTables",
    "InputError",
    "Ledger",
    "LocalBatch",
    "MissingExtraError",
    "MissingSecretError",
    "OpenAIBatch",
    "OpenAICompatibleBatch",
    "ParquetTables",
    "ProtocolError",
    "ProviderError",
    "RefusedError",
    "StaleFenceError",
    "StorageError",
    "TableLockedError",
    "TableStore",
    "UnreachableError",
    "UserError",
]
