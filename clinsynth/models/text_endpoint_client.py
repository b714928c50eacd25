"""huggingface_hub's client, made to send what it was asked to any server of the OpenAI protocol, and nothing else."""

from typing import Any

import httpx2
from huggingface_hub import InferenceClient

from clinsynth.models.text_endpoint_address import is_loopback


class OpenAIClient(InferenceClient):
    """An `InferenceClient` for an address of one's own, with a session of its own.

    By itself the client turns a JSON schema into a form that TGI alone reads, so that other servers would write
    without it; adds the user's saved Hub token for every host; is silenced by HF_HUB_OFFLINE; and takes the texts
    wherever a redirect points. Here a schema is sent as OpenAI defines it, the key is the given one or none, and
    requests to this machine pass no proxy.

    Raises (from `chat_completion`):
        httpx2.HTTPStatusError: a status other than 2xx.
        httpx2.RequestError: no answer.
        ValueError: an answer that is no JSON object.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float):
        super().__init__(base_url=url, api_key=key)
        self.session = httpx2.Client(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
            limits=httpx2.Limits(max_connections=None),
            trust_env=not is_loopback(url),
        )

    def _inner_post(self, request_parameters: Any, *, stream: bool = False) -> Any:
        body = request_parameters.json
        form = body.get("response_format")
        if form is not None and set(form) == {"type", "value"}:
            schema = {"name": "row", "schema": form["value"], "strict": True}
            body = {**body, "response_format": {"type": "json_schema", "json_schema": schema}}
        response = self.session.post(request_parameters.url, json=body)
        response.raise_for_status()
        return response.content
