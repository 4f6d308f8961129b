"""Text parts of bodies that are alike: the same as if each were read by the HTML parser, which is the oracle here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.mail import alike
from worker.mail.alike import MAX_KEPT_CHARACTERS, AlikeBodies, text_of_campaign
from worker.mail.text import MAX_TAGS, text_from_html

PIECES = st.sampled_from(
    [
        "§",
        "§ ",
        "<p>Hello §, how are you?</p>",
        "<h1>§!</h1>",
        "<a href='https://x.example/?n=§&t=1'>for you</a>",
        '<a href="§">link</a>',
        "<a href=https:/§/x>raw</a>",
        "<a href=§>raw</a>",
        "<img alt='§' src=§>",
        "<img alt='Picture of §'>",
        "<td>§<td>§ §<br>§<li>§",
        "<title>§</title>",
        "<style>p{color:§}</style>",
        "<!-- § -->",
        "<!--§->",
        "<§>in a tag",
        "</§>",
        "<b §=1>",
        "<b class=§ title='§ of §'>bold</b>",
        "&§;",
        "&#§;",
        "&amp;§",
        "<textarea>\n§</textarea>",
        "<pre>\n§  §</pre>",
        "<table>§<tr>§<td>cell</table>",
        "<select><option>§</select>",
        "<input type=§><input value='§'>",
        "<svg><desc>§</desc></svg>",
        "<template>§</template><noscript>§</noscript>",
        "<plaintext>§",
        "<script>if (1 < §) {}</script>",
        "<script><!-- <script> §></script> hidden</script> t",
        "<svg><![CDATA[ §> B ]]></svg>",
        "<p>words that are the same",
        "\n\n",
    ]
)
WORDS = st.sampled_from(
    [
        "Ann",
        "Bob",
        "Ann Marie",
        "O'Brien",
        "a b",
        "1",
        "39",
        "amp",
        "hidden",
        "p",
        "br",
        "http://a.example",
        "https:",
        "--",
        "]]",
    ]
)
VALUES = WORDS | st.text(
    st.sampled_from("ab &;<>\"'=/-!#1\xa0\u2028\ue000\ue001\x0c\n") | st.characters(codec="utf-8"), max_size=6
)


@settings(max_examples=1000)
@given(st.lists(PIECES, min_size=1, max_size=5).map("".join), st.lists(st.lists(VALUES, min_size=1, max_size=3)))
def test_the_text_is_the_same_as_of_each_body_alone(template: str, bodies: list[list[str]]) -> None:
    alikes = AlikeBodies()
    for values in bodies:
        parts = template.split("§")
        html = parts[0] + "".join(values[number % len(values)] + part for number, part in enumerate(parts[1:]))
        assert alikes.text(html) == text_from_html(html)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the HTML parser has read."""
    read: list[str] = []

    def text(html: str) -> str:
        read.append(html)
        return text_from_html(html)

    monkeypatch.setattr(alike, "text_from_html", text)
    return read


def body(number: int, name: str) -> str:
    link = f"https://app.example/unsubscribe?token={number:x}x&amp;campaign=7"
    return f"<h1>Dear {name},</h1><p>it's {name}'s day.</p><p><a class=x href='{link}'>Unsubscribe</a></p>"


@pytest.mark.parametrize(
    "names",
    [["Ann"], ["Ann", "Bob", "Joe"], ["Ann Marie", "Bob", "Joe Smith"], ["Ann", "Bob", "O'Brien", "Zoë"]],
    ids=["a link", "a name", "two names", "signs"],
)
def test_a_campaigns_bodies_are_read_a_few_times(read: list[str], names: list[str]) -> None:
    alikes = AlikeBodies()
    for number in range(500):
        html = body(number, names[number % len(names)])
        assert alikes.text(html) == text_from_html(html)
    assert len(read) < 30


def test_one_body_is_read_once(read: list[str]) -> None:
    alikes = AlikeBodies()
    assert {alikes.text("<p>Hello</p>") for _ in range(100)} == {"Hello\n"}
    assert len(read) <= 2


def test_odd_names_and_a_changed_body_cost_the_others_nothing(read: list[str]) -> None:
    alikes = AlikeBodies()
    for number in range(300):
        html = body(number, "A &amp; B" if number % 10 == 5 else "Ann")
        assert alikes.text(html) == text_from_html(html)
    assert len(read) < 80
    read.clear()
    for number in range(300):
        html = "<p>Changed.</p>" + body(number, "Ann")
        assert alikes.text(html) == text_from_html(html)
    assert len(read) < 30


def test_bodies_with_nothing_in_common_cost_their_reading(read: list[str]) -> None:
    alikes = AlikeBodies()
    for number in range(300):
        alikes.text("<p>word</p> " * (number % 60 + 1) + "<i>" * (number % 7))
    assert len(read) < 330


def test_campaigns_take_turns(read: list[str]) -> None:
    for number in range(300):
        html = f"<p>Campaign {number % 3}, {number}</p>" * (number % 3 + 1)
        assert text_of_campaign(html, f"turns-{number % 3}") == text_from_html(html)
    assert len(read) < 30


def test_big_bodies_and_many_tags_are_read_alone() -> None:
    big = "<p>x" * (MAX_KEPT_CHARACTERS // 4 + 1)
    assert text_of_campaign(big, "big") == text_from_html(big)
    tags = "<" * (MAX_TAGS + 1)
    for name in ("Ann", "Bob", "Joe"):
        assert text_of_campaign(f"{tags} {name}", "tags") == text_from_html(f"{tags} {name}")
