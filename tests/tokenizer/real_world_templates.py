"""Chat templates in the styles that models come with, and conversations for them. Written for these tests."""

from __future__ import annotations

from typing import Any

CHATML = """{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

HEADERS = """{{- bos_token }}
{%- if tools is defined and tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n\\n' + message.content | trim + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}
"""

INSTRUCTIONS = """{%- if messages[0]['role'] == 'system' %}
{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set system_message = '' %}{%- set loop_messages = messages %}{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- set before = system_message + '\\n\\n' if loop.first and system_message else '' %}
        {{- '[INST] ' + before + message.content + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

TURNS = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{% generation %}{{ '<|assistant|>\\n'  + message['content'] + eos_token }}{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

TOOLS = """{%- set state = namespace(seen=0) %}
{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- tools | tojson(indent=2) }}<|im_end|>
{% endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{%- set state.seen = state.seen + 1 %}{%- endif %}
    {%- if message.content is defined and '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {%- else %}{%- set content = message.content %}{%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content }}
    {%- for call in message.tool_calls or [] %}
        {{- '{"name": "' ~ call.function.name ~ '", "arguments": ' ~ call.function.arguments | tojson ~ '}' }}
        {%- if loop.index > 2 %}{%- break %}{%- endif %}
    {%- endfor %}
    {%- if message.reasoning_content %}{{- '<think>' ~ message.reasoning_content ~ '</think>' }}{%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}{{- state.seen }}{{- documents is none }}{{- strftime_now('%Y') }}
"""

TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "instructions": INSTRUCTIONS, "turns": TURNS, "tools": TOOLS}

DIALOGUE: list[dict[str, Any]] = [
    {"role": "user", "content": "Hello, how are you?\n"},
    {"role": "assistant", "content": '  Fine. <b>You</b> & "me"?'},
    {"role": "user", "content": " Üben wir 漢字 🎉 {{ 7*7 }} "},
]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": DIALOGUE[:1],
    "dialogue": DIALOGUE,
    "system": [{"role": "system", "content": "Be brief."}, *DIALOGUE],
    "empty": [{"role": "user", "content": ""}],
    "thinking": [DIALOGUE[0], {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}, DIALOGUE[2]],
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Says how the weather is in <city> & "around"',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "é": {"type": "integer"}}},
    },
}
TOOL_DIALOGUE: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Köln?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "look it up",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "n": 1.5}}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
]
