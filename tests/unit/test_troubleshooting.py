"""docs/troubleshooting.md has a row for each sentence that tells what is wrong, and none for others."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.unit.sentences import (
    HOLE,
    Sentence,
    ansible_sentences,
    lua_sentences,
    python_sentences,
    sentences_of,
)

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs/troubleshooting.md").read_text(encoding="utf-8")
#: The first column's title of tables that quote this project; others quote other programs, or say what is seen.
OURS = "it says"

#: What runs at a user's or on his hosts, and may tell him that something is wrong.
SPEAKING = re.compile(
    r"""(worker|plugins|playbooks|roles)/.*\.(py|lua|js)
    | playbooks/.*\.yml
    | roles/[^/]+/(tasks|handlers|vars)/.*\.yml
    | roles/[^/]+/files/(?!Containerfile)[^.]+
    | roles/container/templates/mail-worker\.j2
    | testbed/bootstrap\.sh""",
    re.VERBOSE,
)

#: Of these, only what they raise, log or print as an error is one. The rest is what stands behind each `#`.
ANSWERING = re.compile(
    r"""worker/commands\.py | roles/worker/files/mail_worker_release/__main__\.py # help, and results
    | worker/operating/(?!checks\.).*\.py # what commands answer
    | worker/watching/metrics\.py # what each metric is
    | worker/mail/(names|outcomes|text)\.py # fields, which docs/jobs.md has; servers' words; elements of HTML
    | worker/base/counted_script\.py | plugins/become/sudo\.py # Lua; sudo's words""",
    re.VERBOSE,
)

#: What isn't an error by itself, or reaches no user: where it stands, a pattern for it, and why.
EXCEPTIONS = [
    # what to do, after a first half that has its row
    (
        r"roles/preflight/.*/verdicts\.py",
        r"^(add|begin|check|correct|open|put) |^…?(, and port…|:|, but|: ask|: check) ",
        "the way out",
    ),
    (
        r"roles/preflight/.*/verdicts\.py",
        r"^… SUPABASE_|^…: … \(…'s API carries|^, which the workers|^would, once",
        "a part",
    ),
    (r"roles/preflight/.*/verdicts\.py", r"^Redis at …: …\.$", "two parts, each with its row"),
    (r"roles/preflight/.*/services\.py", r"^preflight_ca_certificates: …", "the end of another one"),
    (r"roles/preflight/.*/system\.py", r"with a password each time", "a part of what is well"),
    (
        r"roles/preflight/.*\.py",
        r"^(wrong tls|not rows|mail API)$|its data isn't JSON",
        "kinds and places, of which verdicts.py makes sentences",
    ),
    (r"roles/worker/.*/small_facts\.py", r": mend it there", "the end of another one"),
    (
        r"roles/worker/.*/switch\.py",
        r"^The release …: deploy again|^…: … failed|^…: back to|^killed, not",
        "made of others, or lines of deploys.log",
    ),
    (r"roles/worker/tasks/prepare\.yml", r"^Solve it", "the end of another one"),
    (r"worker/base/values\.py", r"^in … or the env", "the end of each sentence about a setting"),
    (r"worker/mail/shape\.py", r"^… ha(s|ve) one$", "the middle of another one"),
    (
        r"worker/mail/jobs\.py|worker/queue/producer\.py|worker/watching/telling\.py",
        r"^\(and … |^; the first",
        "how many more there are",
    ),
    (
        r"worker/sending/transports/smtp.*\.py",
        r"^(the content had left|the reply to …|SMTP server …|SMTP_USER and|TLS from the first byte)",
        "parts of others",
    ),
    (r"worker/sending/transports/smtp\.py", r"^; not for …", "the end of a reply that accepts"),
    (
        r"worker/watching/troubles\.py",
        r"^[^….:]+$",
        "what a kind of alert means: docs/alerts.md has each (tests/unit/test_alerts.py)",
    ),
    (r"worker/watching/troubles\.py", r"^ends in … days$", "a part"),
    (
        r"worker/sending/delivery\.py|worker/queue/control\.py",
        r"^then: mail-worker resume|^by an operator",
        "the end of another one; who paused it",
    ),
    # what is well
    (
        r"roles/(redis|guard)/files/.*",
        r"^Redis has adopted|^A new certificate|are in the append-only file now|are restored from|is enabled",
        "what was done",
    ),
    (r"roles/worker/.*/switch\.py", r"is in place; restarting", "what is done"),
    (r"testbed/bootstrap\.sh", r"^Installing uv", "what is done"),
    (r"worker/operating/checks\.py", r"^… of …: … jobs wait$", "what is well"),
    (r"worker/recording/database\.py", r"^…, tables … and …$", "what is well"),
    (
        r"worker/sending/transports/.*\.py",
        r"(logged in as …|the key is accepted|^captured as …|^caught by …)",
        "what is well",
    ),
    (r"roles/preflight/.*/probe_system\.py", r"clock is right", "what is well"),
    (r"roles/preflight/.*/system\.py", r"^an unknown system$", "a part"),
    (r"plugins/.*/host_files\.py", r"^exit code …$|^it printed nothing$", "the end of another one"),
    (r"worker/page/page\.js", r"^There is no history yet|^None is open", "what is well"),
    # what no user sees
    (
        r"worker/errors\.py|worker/sending/sent_rows\.py",
        r"further connection|connections are in use|value among several|may be cut off",
        "caught where it may be raised",
    ),
    (
        r"worker/queue/runner\.py|worker/sending/delivery\.py",
        r"^a job without a queue|that isn't one was refused|^the process stops",
        "a programming error, or a mark for the ledger",
    ),
    (
        r"worker/sending/transports/base\.py",
        r"nothing of the mail has left",
        "tells a process which cancellation it is",
    ),
    (r"worker/sending/process\.py", r"^… Trying again\.$", "any of the other sentences"),
    # words of others, and texts that aren't words
    (
        r"playbooks/.*|roles/access/.*",
        r"^Failed to connect|^login as the user|^ssh says nothing|^the current user|^sudo mail-worker",
        "ssh's words, and none",
    ),
    (r"roles/worker/tasks/.*\.yml", r"^No module named|^pip said nothing", "Python's words, and none"),
    (r"roles/worker/.*/build\.py", r"^#!/bin/sh|^with the dependencies", "a script, and what is done"),
    (r"plugins/become/sudo\.py", r"can't be loaded", "Ansible without its own sudo plugin"),
    (
        r"roles/hardening/tasks/.*\.yml",
        r"^/swapfile|^off … is …",
        "a line of fstab; a part of `would get no security updates`",
    ),
    (r"worker/mail/(attachments|header_fields|job_headers)\.py", r"^[a-zA-Z-]+( [a-zA-Z-]+)+$", "names of fields"),
    (r"worker/recording/answers\.py", r"^08 0A", "PostgreSQL's classes of errors"),
    (
        r"worker/sending/transports/providers\.py|worker/base/alerting\.py",
        r"^MAILGUN_API_KEY and|^mail to …$",
        "names of settings and places",
    ),
]


def everything_said() -> list[Sentence]:
    """All that the project says."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True).stdout
    paths = [path for path in files.split() if SPEAKING.fullmatch(path) and (CHECKOUT / path).is_file()]
    return list(sentences_of(CHECKOUT, paths, filter(ANSWERING.fullmatch, paths)))


def rows() -> list[list[str]]:
    """For each row of the page that quotes this project, the words that it's found by."""
    found, ours = [], False
    for line in PAGE.splitlines():
        first = re.split(r"(?<!\\)\|", line)[1].strip() if line.startswith("|") else ""
        if ours and not first.startswith("---") and first:
            found.append([words.replace("\\|", "|") for words in re.findall(r"`([^`]+)`", first)])
        ours = first == OURS or (ours and bool(first))
    return found


def has(sentence: Sentence, fragment: str) -> bool:
    """Whether the fragment's words stand in the sentence, one after the other, `…` being any others. A whole
    sentence stands for itself alone."""
    if fragment in WHOLE:
        return sentence.text == fragment
    place = 0
    for words in fragment.split(HOLE):
        place = sentence.text.find(words, place)
        if place < 0:
            return False
        place += len(words)
    return True


def excepted(sentence: Sentence) -> list[tuple[str, str, str]]:
    """The exceptions that it falls under."""
    return [one for one in EXCEPTIONS if re.fullmatch(one[0], sentence.path) and re.search(one[1], sentence.text)]


SAID = everything_said()
WHOLE = {sentence.text for sentence in SAID}
ERRORS = [sentence for sentence in SAID if sentence.is_error]
ROWS = rows()
FRAGMENTS = [fragment for row in ROWS for fragment in row]


def test_sentences_are_found_in_all_sorts_of_files() -> None:
    assert len(ERRORS) > 500
    assert {Path(sentence.path).suffix for sentence in ERRORS} >= {".py", ".yml", ".lua", ".js", ".sh", ".j2", ""}


def test_each_error_has_its_row() -> None:
    missing = [said for said in ERRORS if not excepted(said) and not any(has(said, fragment) for fragment in FRAGMENTS)]
    assert not missing, "docs/troubleshooting.md lacks rows for\n" + "\n".join(
        f"{said.path}:{said.line}: {said.text}" for said in missing
    )


def test_each_row_is_of_a_sentence() -> None:
    assert not [fragment for fragment in FRAGMENTS if not any(has(said, fragment) for said in SAID)]


def test_each_row_quotes_enough_to_be_found_and_once() -> None:
    assert all(ROWS)
    for fragment in FRAGMENTS:
        words = fragment.replace(HOLE, " ").split()
        assert len(words) > 1, fragment
        assert len(" ".join(words)) >= 8, fragment
        assert FRAGMENTS.count(fragment) == 1, fragment


def test_each_exception_is_needed() -> None:
    assert not [one for one in EXCEPTIONS if not any(one in excepted(said) for said in ERRORS)]


PYTHON = '''
def f(self):
    """A docstring that is no error."""
    logger.info("all is well with %s", name)
    logger.warning("%s isn't well: %.1f" " of them", name, number)
    raise WrongThing(f"{name} is {'too long' if long else 'too short'}: cut it") from None
    return f"the {len(x)} rest of it"
'''


@pytest.mark.parametrize(
    ("errors_alone", "expected"),
    [
        (
            False,
            ["… isn't well: … of them", "… is too long: cut it", "… is too short: cut it", "the … rest of it"],
        ),
        (True, ["… isn't well: … of them", "… is too long: cut it", "… is too short: cut it"]),
    ],
)
def test_what_is_read_of_python(errors_alone: bool, expected: list[str]) -> None:
    found = list(python_sentences(PYTHON, "a.py", errors_alone=errors_alone))
    assert [said.text for said in found if said.is_error] == expected
    assert "all is well with …" in [said.text for said in found]


def test_what_is_read_of_ansible() -> None:
    source = """
- name: Expect a thing
  ansible.builtin.assert:
    that: thing
    fail_msg: "{{ reason }}"
    success_msg: That is as it should be.
  vars:
    reason: >-
      {% if many %} {{ host }} has too many things: remove some. {% else %} It has none at all. {% endif %}
- name: Fail
  ansible.builtin.fail:
    msg: "{{ host }} isn't there {{ 'for whatever reason there is' if why else '' }}"
- name: Say so
  ansible.builtin.debug:
    msg: All is as it should be.
- name: Run it
  ansible.builtin.shell: |
    test -e {{ file }} || { echo "Error: $file isn't $(what "it is") at all" >&2; exit 1; }
"""
    assert sorted(said.text for said in ansible_sentences(source, "a.yml")) == [
        "Error: … isn't … at all",
        "It has none at all.",
        "for whatever reason there is",
        "… has too many things: remove some.",
        "… isn't there …",
    ]


def test_what_is_read_of_lua() -> None:
    source = "-- 'a comment of some words'\nlocal words = '%.0f of it isn\\'t there' -- 'and so on it goes'"
    assert [said.text for said in lua_sentences(source, "a.lua")] == ["… of it isn't there"]
