"""One table, two renderers: the terminal's is never cut, and both hold every cell."""

from vllm_pensieve.tables import RULE, Table, markdown, said, seconds, show

TABLE = Table(
    ("workload", "hits of one policy", "by"),
    [["a|b", "1,000", "[one]"], RULE, ["c\nd", "20", "[two]"]],
    "What was hit",
    "with a caption",
    text=("by",),
)


def test_markdown_holds_every_cell_and_no_rule():
    assert markdown(TABLE) == (
        "| workload | hits of one policy | by |\n| --- | --- | --- |\n"
        "| a\\|b | 1,000 | [one] |\n| c d | 20 | [two] |\n"
    )
    assert markdown(Table(("a",), [])) == ""


def test_headings_are_broken_where_that_makes_the_table_fit_and_cells_never(capsys):
    for width, lines_of_headings in ((80, 1), (30, 3), (5, 1)):
        show(TABLE, width)
        shown = capsys.readouterr().out
        assert "…" not in shown
        for cell in ("a|b", "1,000", "[one]", "20", "[two]", "What was hit", "workload"):
            assert cell in shown
        assert ["a|b", "1,000", "[one]"] in [line.split() for line in shown.splitlines()]
        ruled = [line for line in shown.splitlines() if "─" in line]
        headings = shown.split(ruled[0])[0].splitlines()
        assert sum("hits" in line or "one" in line or "policy" in line for line in headings) == (
            lines_of_headings
        )


def test_numbers_that_are_missing_are_said_to_be():
    assert (said(None, "{:.1%}"), said(0.5, "{:.1%}"), said(None, "{}", "none")) == (
        "-",
        "50.0%",
        "none",
    )
    assert (seconds(None), seconds(0.0123), seconds(1.5)) == ("-", "12 ms", "1.50 s")
