"""Every word that a data check knows, its level, and what to do about it.

error: the row is bad. warning: the row is good and may be trained, but is odd. note: said, with the count.
The codes are stable: scripts may rely on them.
"""

from typing import NamedTuple

from penala.conversations.conversation import Level


class Code(NamedTuple):
    """A kind of finding: its level and how to fix it."""

    level: Level
    fix: str


class Fault(NamedTuple):
    """One thing wrong in one row; `path` lies inside the row. An empty `fix` means the one of its code."""

    code: str
    path: str
    message: str
    fix: str = ""


def _errors(**fixes: str) -> dict[str, Code]:
    return {code: Code("error", fix) for code, fix in fixes.items()}


def _warnings(**fixes: str) -> dict[str, Code]:
    return {code: Code("warning", fix) for code, fix in fixes.items()}


def _notes(**fixes: str) -> dict[str, Code]:
    return {code: Code("note", fix) for code, fix in fixes.items()}


_ROLES = "use system, user, assistant or tool"
_PLAIN_TEXT = "write it as text"
_LIST = "write messages as a list of {role, content} objects"

CODES: dict[str, Code] = {
    # the file
    **_errors(unreadable_file="write the file again"),
    **_warnings(
        too_few_rows="training needs at least 10 good rows",
        several_splits="name the file or folder of one split",
    ),
    **_notes(
        no_header="add a first line with the column names if this is wrong",
        beside_data="move rows that are missing into that list",
        skipped_file="move it out of the folder, or ignore this",
        mixed_schemas="most of a file's first 1,000 rows choose its schema: move the others to a file of their own",
        template_markers="they stay text and never act as markers; check that they belong there",
        unread_columns="put what matters into the messages; --column gives a column that is read another name",
        unrendered_keys="where the template leaves it out, the model never sees it: `penala data tokens` shows",
    ),
    # the bytes and the JSON of a row
    **_errors(
        not_utf8="save the file as UTF-8",
        broken_json="write one JSON object a line, as json.dumps does",
        two_on_a_line="put each object on a line of its own",
        not_an_object='write the row as an object: {"messages": [...]}',
        empty_object="delete the row, or give it messages",
        double_key="keep one of them",
        nan="write null, or leave the key out",
        too_deep="flatten the row",
        lone_surrogate="write whole characters: a surrogate needs its other half",
    ),
    # rows of tables
    **_errors(
        ragged="give each row one field a column, and quote fields that hold the separator",
        empty="delete the row",
        broken_csv='quote fields with " and double every " inside them',
        python_repr="write the column with json.dumps instead of str()",
    ),
    # the shape of a row
    **_errors(
        no_messages="give the row a list `messages`, or name its columns with `columns` (--column OURS=THEIRS)",
        other_schema="keep one schema in a file, or move these rows to a file of their own",
        missing_column="fill the column, or name it with `columns` (--column OURS=THEIRS)",
        text='plain text has no roles; write {"messages": [...]}',
        messages_text=_LIST,
        messages_object=_LIST,
        messages_null=_LIST,
        messages_strings=_LIST,
        messages_nested="write one conversation a row, its messages side by side",
        message_null="delete the null",
        missing_role=_ROLES,
        role_null=_ROLES,
        role_number=_ROLES,
        role_object=_ROLES,
        unknown_role=_ROLES,
        missing_content="give the message a content",
        null_content="give the message a content; null is for an assistant that calls tools",
        content_number=_PLAIN_TEXT,
        content_boolean=_PLAIN_TEXT,
        content_object=_PLAIN_TEXT,
        list_of_strings="write one text, or parts of the form {type: text, text: ...}",
        image_part="keep text parts only: the model sees text",
        bad_tools="write tools as OpenAI does: a list of {type: function, function: {...}}",
    ),
    # who speaks when
    **_errors(
        no_user="add what the user said",
        no_assistant="add the assistant's reply: without one there is nothing to learn",
    ),
    **_warnings(
        user_user="join the two, or add the reply between them; the template may refuse or merge them",
        assistant_assistant="join the two, or add the question between them; the template may refuse or merge them",
        assistant_first="start with a system or user message; some templates refuse this",
        ends_with_user="end with the assistant's reply: what comes after the last one is not learned",
        ends_with_tool="end with the assistant's reply: what comes after the last one is not learned",
        system_in_middle="move it to the start; some templates refuse or drop it",
        system_last="move it to the start; nothing answers it",
        two_systems="join them into one; some templates keep the first only",
        bad_arguments="write them with json.dumps: the model learns to write what stands there",
        null_keys="leave the keys out; in a parquet file, which gives each row the keys of all, write JSON text",
        tool_without_call="put the assistant's tool_calls before the tool's answer",
        role_case="write roles in small letters",
        role_spaces="write roles without spaces around them",
        developer_role="write system: chat templates do not know developer",
    ),
    # what they say
    **_errors(
        empty_assistant="write the reply, or delete the row",
        blank_assistant="write the reply, or delete the row",
        invisible_content="write the reply, or delete the row",
        bad_weight="write 0 (not trained) or 1",
    ),
    **_warnings(
        empty_user="write what the user said, or delete the row",
        empty_system="delete the empty system message: it hides the template's own",
        control_characters="delete them; they are rarely meant to be learned",
        very_long="it may not fit the model: see on_too_long, or cut it yourself",
    ),
    # the columns beside them
    **_warnings(
        prompt_null="fill prompt and prompt_id, or leave them out",
        prompt_mismatch="make prompt the first user message, or leave it out; messages are what is trained",
        prompt_id_mismatch="make prompt_id the SHA-256 of prompt, or leave it out",
    ),
    # between rows
    **_warnings(
        duplicate="delete one of them; a repeated row weighs twice",
        in_two_splits="delete it from one of them: a score on trained rows means little",
        same_prompt="check that both replies are meant",
        same_prompt_id="give each prompt an id of its own",
    ),
}
