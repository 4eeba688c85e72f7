"""How the report looks: on a screen, on a phone, in the dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --text: #222; --quiet: #555; --line: #ddd; --ground: #fff; --box: #eef4fa; --alarm: #a00;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --quiet: #a5a5a5; --line: #444; --ground: #16181c; --box: #1f2b38; --alarm: #ff8a80; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: var(--text); background: var(--ground); }
main { max-width: 62rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; }
tr > th[scope=row] { font-weight: 400; vertical-align: top; }
small { color: var(--quiet); font-weight: 400; font-size: .85em; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figure { margin: 1rem 0; }
figcaption { color: var(--quiet); font-size: .9em; }
svg { width: 100%; height: auto; max-width: 46rem; }
svg text { fill: var(--quiet); font-size: 12px; }
svg line { stroke: var(--line); }
ul.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: 0; padding: 0; }
ul.legend li { font-size: .9em; }
ul.legend span { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
p.advice { background: var(--box); padding: .6rem .8rem; border-radius: 4px; }
p.note { color: var(--quiet); }
@media (max-width: 40rem) {
  th, td { padding: .25rem; font-size: .82em; }
  svg text { font-size: 20px; }
}
p.warning { color: var(--alarm); font-weight: 600; }
"""
