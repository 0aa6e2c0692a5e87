"""The grammar of RFC 5228 with the reference's assignments, variables and elements, for lark's LALR parser.

As in the RFC the grammar knows no command by name: which ones there are, and what they take, is not its business. An
element has no blank before its bracket, unlike a variable that a list follows.
"""

from __future__ import annotations

GRAMMAR = r"""
start: statement*

?statement: command | assignment | unpacking
command: call (";" | block)
block: "{" statement* "}"
assignment: VARIABLE "=" (value | call) ";"
unpacking: "(" VARIABLE ("," VARIABLE)* ")" "=" (value | call) ";"

call: NAME (value | tag)* tests?
tests: call | "(" call ("," call)* ")"

?value: scalar | items
?scalar: text | number | variable | element
items: "[" scalar ("," scalar)* "]"
element: ELEMENT (text | number | variable) "]"
number: NUMBER
variable: VARIABLE
tag: TAG
text: QUOTED | MULTILINE

NAME: /[A-Za-z_][A-Za-z0-9_]*/
TAG: /:[A-Za-z_][A-Za-z0-9_]*/
VARIABLE: /\$[A-Za-z_][A-Za-z0-9_]*/
ELEMENT.1: /\$[A-Za-z_][A-Za-z0-9_]*\[/
NUMBER: /-?[0-9]+(?:\.[0-9]+)?[KMGkmg]?(?![A-Za-z0-9_.])/
QUOTED: /"[^"\\]*(?:\\(?s:.)[^"\\]*)*"/
MULTILINE.2: /(?i:text):[ \t]*(?:\#[^\n]*)?\n(?:[^\n]*\n)*?\.[ \t]*(?=\n|\Z)/

COMMENT: /\#[^\n]*|\/\*(?s:.)*?\*\//
BLANK: /[ \t\r\n\f]+/
%ignore COMMENT
%ignore BLANK
"""

# What errors call the terminals.
WORDS = {
    "$END": "the end of the script",
    "NAME": "a name",
    "TAG": "a tag",
    "VARIABLE": "a variable",
    "ELEMENT": "an element",
    "NUMBER": "a number",
    "QUOTED": "a text",
    "MULTILINE": "a text",
    "SEMICOLON": "';'",
    "COMMA": "','",
    "EQUAL": "'='",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
}
