"""Writes jinja.json: what Jinja2 (3.1) with transformers' settings makes of the templates in templates.txt.

    python3 test/lib/text/template/jinja.py

templates.txt has one template a paragraph, between lines of '----'. All are rendered with the same context.
"""
import json
import pathlib
from datetime import datetime

import jinja2
import jinja2.ext
import jinja2.sandbox

FOLDER = pathlib.Path(__file__).parent

CONTEXT = {
    'messages': [
        {'role': 'system', 'content': 'Be brief.'},
        {'role': 'user', 'content': ' How warm is it in "Ålesund" & what\'s <next>? \n'},
        {'role': 'assistant', 'content': None, 'tool_calls': [{'id': 'a1', 'function': {'name': 'f', 'arguments': {'place': 'Oslo', 'days': 3, 'deep': [1, {'x': None, 'y': True}]}}}]},
        {'role': 'tool', 'content': '{"celsius": 7}', 'name': 'f'},
        {'role': 'assistant', 'content': 'Seven.', 'tool_calls': []},
    ],
    'tools': None,
    'words': ['pear', 'Apple', 'fig', 'apple'],
    'people': [{'name': 'Bo', 'age': 3, 'tags': {'a': 1}}, {'name': 'al', 'age': 1, 'tags': {'a': 5}}, {'name': 'Cy', 'age': 2, 'tags': {}}],
    'numbers': [3, 1, 2],
    'd': {'b': 2, 'a': 1, 'items': 'hidden', 'C': None},
    'empty': '',
    'text': 'the quick  brown\tfox',
    'lines': 'one\ntwo\r\n\nthree',
    'emoji': 'a😀b\U0010fffdé',
    'quotes': 'it\'s "so"',
    'yes': True,
    'none_value': None,
    'n': 7,
    'pi': 3.14159,
    'bos_token': '<s>',
    'add_generation_prompt': True,
}


class Generation(jinja2.ext.Extension):
    tags = {'generation'}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(['name:endgeneration'], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method('_run'), [], [], body).set_lineno(line)

    def _run(self, caller):
        return caller()


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters['tojson'] = tojson
    env.globals['raise_exception'] = raise_exception
    env.globals['strftime_now'] = lambda form: datetime(2024, 2, 29, 15, 4, 5).strftime(form)
    return env


def render(env, template, context):
    try:
        return {'text': env.from_string(template).render(**context)}
    except Exception as error:
        return {'error': type(error).__name__}


if __name__ == '__main__':
    env = environment()
    templates = (FOLDER / 'templates.txt').read_bytes().decode().split('\n----\n')
    templates[-1] = templates[-1].removesuffix('\n')
    cases = [{'template': template, **render(env, template, CONTEXT)} for template in templates]
    result = {'context': CONTEXT, 'cases': cases}
    (FOLDER / 'jinja.json').write_text(json.dumps(result, ensure_ascii=False, indent=1) + '\n')
    print(len(cases), 'cases,', sum('error' in case for case in cases), 'errors')
