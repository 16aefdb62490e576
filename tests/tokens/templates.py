"""The essentials of chat templates in use, one a family, in our own words: what each writes around the messages.

Tools, images and dates are left out but where a test is about them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Family:
    """A chat template with the special tokens that its tokenizer has.

    tokenizer: "byte" (GPT-2's kind), "lines" (byte level, newlines stay together: Llama-3, Qwen), "llama" (a space
    before each text), "gemma" (spaces are pieces). rstrip: special tokens swallow the white space behind them.
    ends: the end-of-turn tokens; eos: what the files declare. bos: the token that a rendering begins with, once.
    """

    name: str
    source: str
    tokens: tuple[str, ...]
    ends: tuple[str, ...]
    eos: str
    bos: str | None = None
    tokenizer: str = "byte"
    system: bool = True
    trims: bool = False
    lead: str = ""
    tail: str = ""
    prompt_is_prefix: bool = True
    rstrip: bool = False

    def __repr__(self) -> str:
        return self.name


def _loop(body: str, prompt: str, before: str = "", behind: str = "") -> str:
    return (
        f"{before}{{% for message in messages %}}{body}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}{behind}"
    )


_CHATML = "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
_REFUSE_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
_ROLE_TAGS = "<|{{ message['role'] }}|>\n{{ message['content'] }}"

_LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' -%}
    {%- set rest = messages[1:] -%}{%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' -%}
{%- else -%}{%- set rest = messages -%}{%- set system = '' -%}{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('wrong order') }}{%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{ bos_token + '[INST] ' + ((system if loop.first else '') + message['content']).strip() + ' [/INST]' }}
    {%- else -%}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{%- endif -%}
{%- endfor -%}"""

_MISTRAL = """\
{{- bos_token }}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}{{ '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' -%}{{ message['content'] + eos_token }}
    {%- else -%}{{ raise_exception('Only user and assistant roles are supported!') }}{%- endif -%}
{%- endfor -%}"""

_LLAMA_3 = """\
{%- for message in messages -%}
    {{- bos_token if loop.first else '' -}}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"""

_QWEN_2 = """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' -}}
{%- endif -%}
{%- if tools -%}
    {{- '<|im_start|>system\n# Tools\n<tools>' -}}{%- for tool in tools -%}{{- '\n' + tool | tojson -}}{%- endfor -%}
    {{- '\n</tools><|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] == 'tool' -%}
        {{- '<|im_start|>user\n<tool_response>\n' + message['content'] + '\n</tool_response><|im_end|>\n' -}}
    {%- else -%}
        {{- '<|im_start|>' + message['role'] -}}
        {%- if message['content'] -%}{{- '\n' + message['content'] -}}{%- endif -%}
        {%- for call in message.tool_calls -%}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' -}}
            {{- call.function.arguments | tojson + '}\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""

_QWEN_3 = """\
{%- set ns = namespace(last=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- set content = message.content -%}{%- set thought = message.reasoning_content or '' -%}
        {%- if not thought and '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\n' -}}
        {%- if loop.index0 > ns.last -%}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') -}}
        {%- else -%}{{- content -}}{%- endif -%}
        {{- '<|im_end|>\n' -}}
    {%- else -%}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""

_GEMMA = """\
{%- for message in messages -%}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' -}}
    {{- message['content'] | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"""

_GEMMA_3 = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\n\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- for message in rest -%}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' -}}
    {{- (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"""

_FALCON_3 = """\
{%- for message in messages -%}
    {{- '<|' + message['role'] + '|>\n' + message['content'] -}}
    {{- eos_token if message['role'] == 'assistant' and loop.last else '' -}}
    {{- eos_token + '\n' if message['role'] == 'assistant' and not loop.last else '' -}}
    {{- '\n' if message['role'] != 'assistant' else '' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"""

_DEEPSEEK = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages if message['role'] == 'system' -%}{%- set ns.system = message['content'] -%}{%- endfor -%}
{{- bos_token + ns.system -}}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}{{- '<|User|>' + message['content'] -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- '<|Assistant|>' + message['content'].split('</think>')[-1] + '<|end_of_sentence|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|Assistant|><think>\n' -}}{%- endif -%}"""

_GPT_OSS = """\
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message.content -}}
        {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' -}}
    {%- else -%}{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"""

_COMMAND_R = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- set role = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[message['role']] -%}
    {{- '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' -}}
    {{- '<|START_RESPONSE|>' + message['content'] + '<|END_RESPONSE|>' if role == 'CHATBOT' else message['content'] -}}
    {{- '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' -}}
{%- endif -%}"""

_VICUNA = """\
{%- if messages[0]['role'] != 'system' -%}{{- 'A chat between a user and an assistant. ' -}}{%- endif -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}{{- message['content'] + ' ' -}}
    {%- elif message['role'] == 'user' -%}{{- 'USER: ' + message['content'] + ' ' -}}
    {%- else -%}{{- 'ASSISTANT: ' + message['content'] + eos_token -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"""

_PHI = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_INST = ("<unk>", "<s>", "</s>")
_GRANITE = "<|start_of_role|>{{ message['role'] }}<|end_of_role|>{{ message['content'] }}<|end_of_text|>\n"
_COMMAND = ("START_OF_TURN_TOKEN", "END_OF_TURN_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN", "SYSTEM_TOKEN")

FAMILIES = [
    Family(
        "smollm2",
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are SmolLM.<|im_end|>\n{% endif %}"
        + _loop(_CHATML, "<|im_start|>assistant\n"),
        _IM,
        ("<|im_end|>",),
        "<|im_end|>",
    ),
    Family("chatml", _loop(_CHATML, "<|im_start|>assistant\n"), _IM, ("<|im_end|>",), "<|im_end|>", tokenizer="lines"),
    Family(
        "phi-3",
        _loop(
            f"{_ROLE_TAGS}<|end|>\n",
            "<|assistant|>\n",
            behind="{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        ),
        _PHI,
        ("<|end|>",),
        "<|endoftext|>",
        tokenizer="llama",
    ),
    Family(
        "phi-3.5",
        _loop(
            "{% if message['role'] != 'system' or message['content'] %}" + _ROLE_TAGS + "<|end|>\n{% endif %}",
            "<|assistant|>\n",
            behind="{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        ),
        _PHI,
        ("<|end|>",),
        "<|endoftext|>",
        tokenizer="llama",
        rstrip=True,
    ),
    Family(
        "phi-4-mini",
        _loop(
            "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}",
            "<|assistant|>",
            behind="{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        ),
        _PHI,
        ("<|end|>",),
        "<|endoftext|>",
        tokenizer="lines",
    ),
    Family(
        "llama-2", _LLAMA_2, _INST, ("</s>",), "</s>", "<s>", "llama", trims=True, lead=" ", tail=" "
    ),  # a BOS begins each exchange
    Family("mistral", _MISTRAL, _INST, ("</s>",), "</s>", "<s>", "llama", system=False),
    Family(
        "llama-3",
        _LLAMA_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ("<|eot_id|>",),
        "<|end_of_text|>",
        "<|begin_of_text|>",
        "lines",
        trims=True,
    ),
    Family("qwen2.5", _QWEN_2, _IM, ("<|im_end|>",), "<|im_end|>", tokenizer="lines"),
    Family("qwen3", _QWEN_3, _IM, ("<|im_end|>",), "<|im_end|>", tokenizer="lines", lead="<think>\n\n</think>\n\n"),
    Family(
        "gemma",
        "{{ bos_token }}" + _REFUSE_SYSTEM + _GEMMA,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        ("<end_of_turn>",),
        "<eos>",
        "<bos>",
        "gemma",
        system=False,
        trims=True,
    ),
    Family(
        "gemma-3",
        _GEMMA_3,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        ("<end_of_turn>",),
        "<eos>",
        "<bos>",
        "gemma",
        trims=True,
    ),
    Family(
        "zephyr",
        _loop(f"{_ROLE_TAGS}{{{{ eos_token }}}}\n", "<|assistant|>\n"),
        _INST,
        ("</s>",),
        "</s>",
        tokenizer="llama",
    ),
    Family(
        "tinyllama",
        _loop(
            "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}", "{{ '<|assistant|>\n' }}"
        ),
        _INST,
        ("</s>",),
        "</s>",
        tokenizer="llama",
    ),
    Family(
        "falcon3",
        _FALCON_3,
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"),
        ("<|endoftext|>",),
        "<|endoftext|>",
        tokenizer="byte",
    ),
    Family(
        "deepseek",
        _DEEPSEEK,
        ("<|begin_of_sentence|>", "<|end_of_sentence|>", "<|User|>", "<|Assistant|>"),
        ("<|end_of_sentence|>",),
        "<|end_of_sentence|>",
        "<|begin_of_sentence|>",
        "lines",
        prompt_is_prefix=False,
    ),
    Family(
        "granite",
        _loop(_GRANITE, "<|start_of_role|>assistant<|end_of_role|>"),
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        ("<|end_of_text|>",),
        "<|end_of_text|>",
    ),
    Family(
        "olmo-2",
        _loop(
            _ROLE_TAGS + "{{ eos_token if message['role'] == 'assistant' else '' }}"
            "{{ '' if message['role'] == 'assistant' and loop.last else '\n' }}",
            "<|assistant|>\n",
            before="{{ bos_token }}",
        ),
        ("<|endoftext|>", "<|bos|>"),
        ("<|endoftext|>",),
        "<|endoftext|>",
        "<|bos|>",
        "lines",
    ),
    Family("vicuna", _VICUNA, _INST, ("</s>",), "</s>", tokenizer="llama", lead=" "),
    Family(
        "command-r",
        _COMMAND_R,
        ("<BOS_TOKEN>", *(f"<|{name}|>" for name in _COMMAND), "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ("<|END_OF_TURN_TOKEN|>",),
        "<|END_OF_TURN_TOKEN|>",
        "<BOS_TOKEN>",
        "lines",
        tail="<|END_RESPONSE|>",
    ),
    Family(
        "gpt-oss",
        _GPT_OSS,
        ("<|endoftext|>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"),
        ("<|end|>", "<|return|>"),
        "<|return|>",
        tokenizer="lines",
        lead="<|channel|>final<|message|>",
    ),
]
BY_NAME = {family.name: family for family in FAMILIES}
