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
from .providers.azure import AzureOpenAIBatch
from .providers.bedrock import BedrockBatch
from .providers.cohere import CohereBatch
from .providers.compatible import OpenAICompatibleBatch
from .providers.doubleword import DoublewordBatch
from .providers.fireworks import FireworksBatch
from .providers.gemini import GeminiBatch
from .providers.groq import GroqBatch
from .providers.local import LocalBatch
from .providers.mistral import MistralBatch
from .providers.openai import OpenAIBatch
from .providers.openrouter import OpenRouterBatch
from .providers.resource import BatchResource
from .providers.together import TogetherBatch
from .providers.vertex import VertexBatch
from .providers.voyage import VoyageBatch
from .providers.xai import XaiBatch
from .table_store import TableStore
from .tables import DuckDBTables

__all__ = [
    "AmbiguousError",
    "AnthropicBatch",
    "AzureOpenAIBatch",
    "BatchLLMError",
    "BatchMachine",
    "BatchResource",
    "BedrockBatch",
    "BusyError",
    "CohereBatch",
    "DoublewordBatch",
    "DuckDBTables",
    "FireworksBatch",
    "GeminiBatch",
    "GroqBatch",
    "InputError",
    "Ledger",
    "LocalBatch",
    "MissingExtraError",
    "MissingSecretError",
    "MistralBatch",
    "OpenAIBatch",
    "OpenAICompatibleBatch",
    "OpenRouterBatch",
    "ParquetTables",
    "ProtocolError",
    "ProviderError",
    "RefusedError",
    "StaleFenceError",
    "StorageError",
    "TableLockedError",
    "TableStore",
    "TogetherBatch",
    "UnreachableError",
    "UserError",
    "VertexBatch",
    "VoyageBatch",
    "XaiBatch",
]
