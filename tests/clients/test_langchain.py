"""langchain-openai, unmodified, under the standard suite of langchain-tests."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

from tests.running_server import RunningServer


class TestChat(ChatModelIntegrationTests):
    """A chat model of 4.7 million parameters."""

    @pytest.fixture(autouse=True)
    def _server(self, server: RunningServer) -> None:
        type(self).url = f"{server.url}/v1"

    url = ""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        fixed = {"model": "tolstoy", "api_key": "unused", "max_retries": 0, "temperature": 0}
        return {**fixed, "base_url": self.url, "max_tokens": 60, "stream_usage": True}


class TestEmbeddings(EmbeddingsIntegrationTests):
    """Vectors of its hidden states; texts are sent as texts, for the client's own tokenizer is another model's."""

    @pytest.fixture(autouse=True)
    def _server(self, server: RunningServer) -> None:
        type(self).url = f"{server.url}/v1"

    url = ""

    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        fixed = {"model": "tolstoy", "api_key": "unused", "max_retries": 0, "check_embedding_ctx_length": False}
        return {**fixed, "base_url": self.url}
