"""Whatever a value holds, the program gets exactly that."""

import json
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from balsam_jupyter.errors import BadInput
from balsam_jupyter.shelltext import shell
from balsam_jupyter.templates import CommandTemplate, render_text, text_names

SHOW = "import os, sys, json; print(json.dumps([os.fsencode(a).hex() for a in sys.argv[1:]]))"

# Everything a program can be given: any characters but NUL and those that have no bytes.
special = st.sampled_from("'\"\\$`!*?~ \n\t#;&|<>(){}[]=")
typed = st.text(st.characters(codec="utf-8", exclude_characters="\0") | special)
nasty = [
    "", " ", "'", '"', "\\", "a'b\"c", "$(reboot)", "`id`", "${HOME}", "$HOME", "a\nb\n", "-n", "~", "*", "!x", "\\'",
    "'\\''", "\r\n", "\x01\x7f", "é😀", "\udcff", "a=b", "#", "{{ x }}", "{a,b}", "$'\\n'", "\\\n",
]  # fmt: skip


def received(argv, cwd=None):
    """What the program of a command line gets, after a direct exec of it."""
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, timeout=30)
    assert done.returncode == 0, done.stderr
    return [bytes.fromhex(word).decode(errors="surrogateescape") for word in json.loads(done.stdout)]


def quoted(python):
    return f"{sys.executable} -ISc '{SHOW}' {python}"


ALL_PLACES = (
    r"""{{ a }} "{{ a }}" '{{ a }}' x{{ a }}y "x{{ a }}y" 'x{{ a }}y' {{ a }}{{ b }} """
    r"""--k="{{ a }}"'{{ b }}'{{ a }} \{{ a }} "\{{ a }}" '\{{ a }}'"""
)


def expected(a, b):
    return [a, a, a, f"x{a}y", f"x{a}y", f"x{a}y", a + b, f"--k={a}{b}{a}", a, "\\" + a, "\\" + a]


@settings(max_examples=25, deadline=None)
@given(typed, typed)
@example("".join(nasty), "'")
def test_direct_command_gets_values_exactly(a, b):
    template = CommandTemplate(quoted(ALL_PLACES))
    assert not template.needs_shell
    argv = template.argv({"a": a, "b": b})
    assert argv[0] == sys.executable
    assert received(argv) == expected(a, b)


@settings(max_examples=40, deadline=None)
@given(typed, typed)
@example("".join(nasty), "'")
def test_shell_command_gets_values_exactly(a, b):
    template = CommandTemplate(f"cd . && {quoted(ALL_PLACES)} # {{{{ a }}}}\ntrue")
    assert template.needs_shell
    argv = template.argv({"a": a, "b": b})
    assert argv[:2] == [shell(), "-c"]
    assert received(argv) == expected(a, b)
    assert received(["sh", "-c", argv[2]]) == expected(a, b)


@settings(max_examples=6, deadline=None)
@given(typed)
@example("".join(nasty) + "\\")
def test_values_in_nested_shell_text(a):
    python = quoted("").strip().replace("'", '"').replace(SHOW, SHOW.replace('"', '\\"'))
    commands = [
        f'echo "$({python} "{{{{ a }}}}" \'{{{{ a }}}}\' {{{{ a }}}})"',
        f'X="<$HOME>" Y="{{{{ a }}}}"; {python} "$Y" "{{{{ a }}}}" {{{{ a }}}}',
        f"if true; then\n  ( {python} {{{{ a }}}} \"${{NOPE:-}}{{{{ a }}}}\" '{{{{ a }}}}' )\nfi",
        f"cat >/dev/null <<'END'\nit's \" quoted $( here\nEND\n{python} {{{{ a }}}} \"{{{{ a }}}}\" '{{{{ a }}}}'",
        f"# it's a comment {{{{ a }}}}\n{python} {{{{ a }}}} \"{{{{ a }}}}\" '{{{{ a }}}}'",
        f"case x in (x) {python} {{{{ a }}}} \"{{{{ a }}}}\" '{{{{ a }}}}';; esac",
        f'true "$$ (" "$?$(true $#)" $$; {python} {{{{ a }}}} "{{{{ a }}}}" \'{{{{ a }}}}\'',
        f"N=$((1 + (2))); {python} {{{{ a }}}} \"{{{{ a }}}}\" '{{{{ a }}}}' 2>&1 | cat",
    ]
    for command in commands:
        text = CommandTemplate(command).argv({"a": a})[2]
        for program in (shell(), "sh"):
            assert received([program, "-c", text]) == [a, a, a], command


@pytest.mark.parametrize("value", nasty)
def test_each_awkward_value_in_each_place(value):
    for prefix in ("", "cd . && "):
        argv = CommandTemplate(prefix + quoted(ALL_PLACES)).argv({"a": value, "b": value})
        assert received(argv) == expected(value, value)


def test_values_that_are_not_text_are_turned_into_it():
    argv = CommandTemplate("prog {{ a }} {{ b }} {{ c }}").argv({"a": 1, "b": 0.5, "c": True, "unused": object()})
    assert argv == ["prog", "1", "0.5", "True"]


@pytest.mark.parametrize("command", ["prog {{ a }}", "cd x && prog '{{ a }}'", "prog {% if a %}{{ a }}{% endif %}"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\0b", "NUL"),
        ("\ud800", "cannot be encoded"),
        ("x" * 200_000, "longer than a program argument"),
        ("é" * 100_000, "longer than a program argument"),
    ],
)
def test_values_no_program_can_get_are_refused(command, value, message):
    with pytest.raises(BadInput, match=message):
        CommandTemplate(command).argv({"a": value})


def test_missing_values_are_named():
    for text in ("prog {{ a }} {{ b }}", "prog {{ a }} | {{ b }}", "prog {% if a %}{{ b }}{% endif %}"):
        with pytest.raises(BadInput, match="No value for b"):
            CommandTemplate(text).argv({"a": 1})


SIMPLE = [
    ("lmp -in in.melt", ["lmp", "-in", "in.melt"]),
    ("a 'b c'  \"d e\"\tf\\ g", ["a", "b c", "d e", "f g"]),
    ("a \"\" '' \"x\"y'z'", ["a", "", "", "xyz"]),
    (r'a "\"\\\n" \" \\', ["a", '"\\\\n', '"', "\\"]),
    ("a b \\\n  c\\\nd", ["a", "b", "cd"]),
    ("\n  a b \n", ["a", "b"]),
    ("a '$HOME' '*' '|' \\$x -t=1 x#y %1", ["a", "$HOME", "*", "|", "$x", "-t=1", "x#y", "%1"]),
    ("echo Hello, World!", ["echo", "Hello,", "World!"]),
    ("./a.out x:y@z +1,2", ["./a.out", "x:y@z", "+1,2"]),
]


@pytest.mark.parametrize(("text", "words"), SIMPLE)
def test_simple_commands_need_no_shell(text, words):
    template = CommandTemplate(text)
    assert not template.needs_shell
    assert template.argv({}) == words


@pytest.mark.parametrize("text", [text for text, _ in SIMPLE[1:7]])
def test_words_are_the_shells_words(text):
    argv = CommandTemplate(text).argv({})
    told = received([shell(), "-c", f'f() {{ {quoted("")} "$@"; }}; {text.strip().replace("a", "f", 1)}'])
    assert told == argv[1:]


@pytest.mark.parametrize(
    "text",
    [
        "a | b", "a; b", "a && b", "a > f", "a < f", "a $HOME", "a `b`", "a *", "a x?", "a [b]", "a ~/x", "a {b,c}",
        "a\nb", "X=1 a", "cd x", "export X", ". ./env", "source env", "exec a", "eval a", "ulimit -s 8", "umask 2",
        "time a", "! a", "if true", "while x", "a # note", 'a "$HOME"', 'a "`b`"', "(a)", "a &", "[[ a ]]", ": x",
        "set -e", "trap a b",
    ],
)  # fmt: skip
def test_commands_for_the_shell_go_to_it_as_written(text):
    template = CommandTemplate(text)
    assert template.needs_shell
    assert template.argv({}) == [shell(), "-c", text]


def test_lines_are_commands_and_blocks_work():
    template = CommandTemplate(
        "{% set double = n * 2 %}\necho start\n"
        "{% for f in files %}\nprintf '%s.' {{ f }} '{{ double }}'\n{% endfor %}\n"
        '{% if n > 1 %}\necho\necho "many: {{ n }}"\n{% endif %}\n'
    )
    assert template.names == {"n", "files"}
    out = subprocess.run(template.argv({"n": 2, "files": ["it's", "a b"]}), capture_output=True, text=True).stdout
    assert out == "start\nit's.4.a b.4.\nmany: 2\n"


def test_a_block_template_needs_no_shell_when_its_text_needs_none():
    text = "prog {% if v %}--verbose={{ v }}{% endif %} {% for i in range(n) %}{{ i }} {% endfor %}"
    template = CommandTemplate(text)
    assert template.argv({"v": "a b", "n": 2}) == ["prog", "--verbose=a b", "0", "1"]
    assert template.argv({"v": "", "n": 0}) == ["prog"]
    with pytest.raises(BadInput, match="cannot be rendered"):
        template.argv({"v": 1, "n": "x"})


def test_shell_text_runs_as_part_of_a_script():
    for text in ("prog {{ a }}", "true && prog '{{ a }}' \"{{ a }}\"", "prog {% if a %}{{ a }}{% endif %}"):
        line = CommandTemplate(text).shell_text({"a": "it's $1"})
        script = f"prog() {{ printf '%s|' \"$@\"; }}\n{line}"
        out = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
        assert set(out.stdout.strip("|").split("|")) == {"it's $1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  \n ", "empty"),
        ("a\0b", "NUL"),
        ("prog {{ a", "line 1"),
        ("prog\n{{ 1a }}", "line 2"),
        ("prog\n{% if x %}", "line 2"),
        ("prog {{ a-b }}", "identifier"),
        ("prog {{ a.b }}", "identifier"),
        ("prog {{ a | upper }}", "identifier"),
        ("prog {{ 'a' }}", "identifier"),
        ("prog {{ }}", "line 1"),
        ("{% macro f() %}{% endmacro %} prog", "not supported"),
        ("{% set x %}{{ a }}{% endset %} {{ x }}", "not supported"),
        ("{% include 'x' %}", "not supported"),
        ("prog 'a {{ b }}", "not closed"),
        ('prog "a', "not closed"),
        ("prog `f {{ a }}`", r"backticks on line 1.*\$\( … \)"),
        ('prog "`f {{ a }}`"', "backticks"),
        ("cat <<END\n{{ a }}\nEND", r"here-document on line 2.*inputs"),
        ("cat <<'E F' <<-G\n{{ a }}\nE F\n\tG", "here-document"),
        ("cat <<{{ a }}\nx\n", "<<"),
        ("echo $(( {{ a }} + 1 ))", "assign it to a variable"),
        ("(( x = {{ a }} ))", "assign it"),
        ("echo ${X:-{{ a }}}", "assign it"),
        ('echo "${X:-{{ a }}}"', "assign it"),
        ('echo ${X:-"{{ a }}', "assign it"),
        ("echo ${X:-$(echo {{ a }})}", "assign it"),
        ("echo ${{ a }}", r"after a \$"),
        ("echo $'x{{ a }}'", "plain quotes"),
        ("echo $[ {{ a }} ]", r"write \$\(\( … \)\)"),
        ("true $[<<E\n]{{ a }}", "intricate|instead"),
        ("echo $'\\'' {{ a }}", "plain quotes"),
        ('echo "$$(" {{ a }}', r"write \$\{\$\}"),
        ("((1<<2)) {{ a }}", "intricate"),
        ("echo $((echo 1); echo 2) {{ a }}", "intricate"),
        ('cat <<E\n"\\\nE\n"{{ a }}"', "here-document"),
        ('echo "$(case x in x) echo;; esac)" {{ a }}', "case"),
        ("echo \"${X%'}'}\" {{ a }}", "intricate"),
    ],
)
def test_templates_that_cannot_be_right_are_refused(text, message):
    with pytest.raises(BadInput, match=message):
        CommandTemplate(text)


def test_shell_text_after_the_last_value_is_left_alone():
    text = 'prog {{ a }} "`date`" $((1 + 2)) <<END\n\'\nEND'
    assert CommandTemplate(text).argv({"a": 1})[2] == text.replace("{{ a }}", "'1'")


def test_names():
    assert CommandTemplate("prog {{ b }} {% for x in xs %}{{ x }}{% endfor %}").names == {"b", "xs"}
    assert text_names("{{ a | round(2) }} {% for i in range(n) %}{{ i }}{% endfor %}") == {"a", "n"}


def test_input_text_is_rendered_raw():
    assert render_text("T = {{ T }}\n{{ s }}\n", {"T": 0.5, "s": "<'\">"}) == "T = 0.5\n<'\">\n"
    assert render_text("{% if a %}x{% endif %}", {"a": ""}) == ""
    with pytest.raises(BadInput, match="'b' is undefined"):
        render_text("{{ b }}", {"a": 1})
    with pytest.raises(BadInput, match="line 2"):
        text_names("\n{% if %}")
