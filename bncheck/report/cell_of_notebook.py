"""An answer as a notebook's cell shows it: the answer, the causes with their fix, the layers that matter, their map."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bncheck.life import Life
from bncheck.report.answer_page import inline
from bncheck.report.layers import FEW, arrange, gravest, heads, mark_of, rest, where
from bncheck.report.plain_text import clean, one_line
from bncheck.report.timeline import distance_map
from bncheck.run_folder.answer import Answer
from bncheck.run_folder.results import Results

MOST_ROWS = 24


def fragment(results: Results, answer: Answer, lives: Sequence[Life]) -> str:
    """HTML without scripts and without styles of its own but widths: the notebook's theme decides its colours."""
    told = arrange(results, answer)
    rows = told.rows if len(told.rows) <= FEW else told.telling[:MOST_ROWS]
    lines = [Markup("<p><strong>{}</strong></p>").format(one_line(answer.headline, 500))]
    for theme in told.themes:
        first, at = theme.first, where(theme, answer)
        lines.append(
            Markup("<p>{} <strong>{}</strong> ({}): {}{}{}</p>").format(
                clean(first.code),
                clean(first.cause),
                first.kind,
                one_line(first.sentence, 500),
                Markup("<br>{}").format(at) if at else "",
                Markup("<br>→ {}").format(one_line(first.advice, 500)) if first.advice else "",
            )
        )
    if rows and answer.columns:
        head = Markup("").join(Markup("<th scope='col'>{}</th>").format(name) for name in heads(answer))
        body = Markup("").join(
            Markup("<tr><th scope='row'>{} {}</th>{}</tr>").format(
                mark_of(row),
                clean(row.layer),
                Markup("").join(Markup("<td>{}</td>").format(clean(cell)) for cell in row.cells),
            )
            for row in rows
        )
        lines.append(Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body))
    left = rest(told.quiet, len(told.telling), answer.each) if len(told.rows) > FEW else ""
    lines += [Markup("<p>{}</p>").format(left)] if left else []
    pictures = [distance_map(life, gravest(results.findings), "layers") for life in lives[:1]]
    lines += [Markup("<figure>{}</figure>").format(inline(each)) for each in pictures if each is not None]
    return Markup("<div class='bncheck'>{}</div>").format(Markup("").join(lines))
