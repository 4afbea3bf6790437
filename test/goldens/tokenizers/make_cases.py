"""Makes cases.json: what transformers and tokenizers make of texts and tokens, with the settings of each case.

    pip install transformers==5.18.0 tokenizers==0.23.2
    python make_cases.py        # beside this file; needs ../../../models
"""
import json
import os
import random
import tempfile

os.environ['TRANSFORMERS_VERBOSITY'] = 'error'
from transformers import PreTrainedTokenizerFast  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, '..', '..', '..', 'models')

TEXTS = [
    'Once upon a time', ' once', '  two  spaces ', 'a--b-c', '--a--', 'don\'t stop! 12,345.67 (yes) "no"', 'tab\tline\nend\n\n',
    '日本語 テキスト', 'naïve café', '🎉 party 👩‍🚀', 'x_y z9', '١٢ ½ Ⅷ', '\u00a0nbsp\u3000wide\u2003em', '', ' ', 'ΣΑΣ ß İ',
    '<NEW>', 'a<NEW>b', 'a <NEW> b', 'a  <NEW>  b', '<NEW><NEW>', '_<NEW>', '-<NEW>.', 'é<NEW>', '<NEW>\u0301', 'A<new>b', ' <NEW>', '<NEW> ',
    '<|user|> hi <|assistant|>', '<s>hello</s> there', '<unk>', '\ufeffbom', 'e\u0301 ﬁ ㎏', 'a , b . c ? it \'s n\'t " x \' y',
]


def added(**more):
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    return dict(content='<NEW>') | flags | more


def metaspace(**more):
    part = dict(type='Metaspace', replacement='▁', split=False) | more
    return dict(normalizer=None, pre_tokenizer=part, decoder=part)


def split(pattern, behavior, invert=False):
    first = dict(type='Split', pattern=pattern, behavior=behavior, invert=invert)
    return dict(pre_tokenizer=dict(type='Sequence', pretokenizers=[first, byte_level()]))


def byte_level(**more):
    return dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=False) | more


def before_bytes(**part):
    return dict(pre_tokenizer=dict(type='Sequence', pretokenizers=[part, byte_level()]))


def llama_decoder(*last):
    first = [dict(type='Replace', pattern=dict(String='▁'), content=' '), dict(type='ByteFallback'), dict(type='Fuse')]
    return dict(decoder=dict(type='Sequence', decoders=first + list(last)))


def word_level():
    words = ['<unk>', 'once', 'upon', 'a', 'time', ',', '.', '?', "'s", "n't", 'it', 'b', 'c', "'", 'x', 'y', '"', '-']
    model = dict(type='WordLevel', vocab={word: index for index, word in enumerate(words)}, unk_token='<unk>')
    return dict(model=model, normalizer=dict(type='Lowercase'), pre_tokenizer=dict(type='WhitespaceSplit'), decoder=None, post_processor=None, added_tokens=[])


def unigram(byte_fallback):
    words = ['<unk>', '▁', 'a', 'b', 'c', 'o', 'n', 'ce', 'on', '▁a', '▁once', '▁time', 't', 'i', 'm', 'e', '.', ',', "'", 's']
    pieces = [[word, -float(index)] for index, word in enumerate(words)]
    pieces += [[f'<0x{byte:02X}>', -100.0] for byte in range(256)]
    model = dict(type='Unigram', unk_id=0, vocab=pieces, byte_fallback=byte_fallback)
    return dict(model=model, post_processor=None, added_tokens=[], **(metaspace(prepend_scheme='always', split=True) | (
        dict(decoder=dict(type='Sequence', decoders=[dict(type='ByteFallback'), dict(type='Metaspace', replacement='▁', prepend_scheme='always', split=True)]))
        if byte_fallback else {})))


def cases():
    for scheme in ['never', 'first', 'always']:
        for is_split in [False, True]:
            yield f'Metaspace {scheme}, split {is_split}', 'stories260k', metaspace(prepend_scheme=scheme, split=is_split), {}, {}
    yield 'Metaspace of another mark', 'stories260k', metaspace(replacement='_'), {}, {}
    for name, part in [('Strip 2', dict(type='Strip', content=' ', start=2, stop=0)), ('Strip the end', dict(type='Strip', content=' ', start=0, stop=1)),
                       ('Strip both', dict(type='Strip', content=' ', start=1, stop=2)), ('Strip a letter', dict(type='Strip', content='o', start=1, stop=0))]:
        yield name, 'stories260k', llama_decoder(part), {}, {}
    yield 'no Strip', 'stories260k', llama_decoder(), {}, {}
    yield 'Strip of every token', 'stories260k', dict(decoder=dict(type='Sequence', decoders=[dict(type='Replace', pattern=dict(String='▁'), content=' '), dict(type='Strip', content=' ', start=1, stop=0), dict(type='ByteFallback'), dict(type='Fuse')])), {}, {}
    yield 'no decoder', 'demo', dict(decoder=None), {}, {}
    yield 'ByteLevel with a space before', 'demo', dict(pre_tokenizer=byte_level(add_prefix_space=True, use_regex=True)), {}, {}
    yield 'ByteLevel without trimming', 'demo', dict(pre_tokenizer=byte_level(trim_offsets=False, use_regex=True)), {}, {}
    for behavior in ['Isolated', 'Removed', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous']:
        for invert in [False, True]:
            yield f'Split {behavior}, invert {invert}', 'demo', split(dict(Regex='[\\s\\-]'), behavior, invert), {}, {}
        yield f'Split text {behavior}', 'demo', split(dict(String='-'), behavior), {}, {}
        yield f'Punctuation {behavior}', 'demo', before_bytes(type='Punctuation', behavior=behavior), {}, {}
    yield 'Split as Llama 3', 'demo', split(dict(Regex="(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"), 'Isolated'), {}, {}
    yield 'Split as Llama 3, Removed and inverted', 'demo', split(dict(Regex="(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"), 'Removed', True), {}, {}
    for kind in ['Whitespace', 'WhitespaceSplit', 'BertPreTokenizer']:
        yield kind, 'demo', before_bytes(type=kind), {}, {}
    for individual in [False, True]:
        yield f'Digits, individual {individual}', 'demo', before_bytes(type='Digits', individual_digits=individual), {}, {}
    yield 'CharDelimiterSplit', 'demo', before_bytes(type='CharDelimiterSplit', delimiter='-'), {}, {}
    for part in [dict(type='NFKC'), dict(type='NFD'), dict(type='Lowercase'), dict(type='Strip', strip_left=True, strip_right=False), dict(type='Strip', strip_left=True, strip_right=True),
                 dict(type='Sequence', normalizers=[dict(type='NFD'), dict(type='StripAccents')]), dict(type='StripAccents'), dict(type='Replace', pattern=dict(Regex='\\s+'), content='$&_'), dict(type='Prepend', prepend='>')]:
        name = part['type'] + (' ' + json.dumps({key: value for key, value in part.items() if key != 'type'}, ensure_ascii=False) if len(part) > 1 else '')
        yield f'normalizer {name}', 'demo', dict(normalizer=part), {}, {}
    for more in [{}, dict(lstrip=True), dict(rstrip=True), dict(lstrip=True, rstrip=True), dict(single_word=True), dict(single_word=True, lstrip=True, rstrip=True), dict(special=True), dict(special=True, rstrip=True)]:
        name = ', '.join(more) or 'plain'
        yield f'added token: {name}', 'demo', dict(_added=[added(**more)]), {}, {}
        yield f'added token of a llama: {name}', 'stories260k', dict(_added=[added(**more)]), {}, {}
    for more in [{}, dict(single_word=True), dict(lstrip=True), dict(rstrip=True)]:
        name = ', '.join(more) or 'plain'
        yield f'normalised added token: {name}', 'demo', dict(normalizer=dict(type='Lowercase'), _added=[added(normalized=True, **more)]), {}, {}
        yield f'normalised added token of a llama: {name}', 'stories260k', dict(_added=[added(normalized=True, **more)]), {}, {}
    yield 'added token with letters of the byte alphabet', 'demo', dict(_added=[added(content='Ġx<NEW>')]), {}, {}
    yield 'tokenizer_config.json alone', 'demo', {}, dict(added_tokens_decoder={'1975': added()}), {}
    yield 'tokenizer_config.json alone, special', 'demo', {}, dict(added_tokens_decoder={'1975': added(special=True)}), {}
    yield 'tokenizer_config.json alone, rstrip', 'demo', {}, dict(added_tokens_decoder={'1975': added(rstrip=True)}), {}
    yield 'tokenizer_config.json alone, two', 'demo', {}, dict(added_tokens_decoder={'1976': added(), '1975': added(content=' b')}), {}
    yield 'tokenizer_config.json alone, single_word', 'demo', {}, dict(added_tokens_decoder={'1975': added(single_word=True)}), {}
    yield 'tokenizer_config.json changes flags', 'demo', dict(_added=[added()]), dict(added_tokens_decoder={'1975': added(rstrip=True)}), {}
    yield 'tokenizer_config.json makes it special', 'demo', dict(_added=[added()]), dict(added_tokens_decoder={'1975': added(special=True)}), {}
    yield 'tokenizer_config.json leaves it special', 'demo', dict(_added=[added(special=True)]), dict(added_tokens_decoder={'1975': added()}), {}
    yield 'additional_special_tokens', 'demo', {}, dict(additional_special_tokens=['<NEW>']), {}
    yield 'extra_special_tokens', 'demo', {}, dict(extra_special_tokens=['<NEW>']), {}
    yield 'extra_special_tokens by name', 'demo', {}, dict(extra_special_tokens={'new_token': '<NEW>'}), {}
    yield 'a token of another name', 'demo', {}, dict(image_token='<NEW>'), {}
    yield 'pad_token that is nowhere else', 'demo', {}, dict(pad_token='<NEW>'), {}
    yield 'additional_special_tokens of the vocabulary', 'demo', {}, dict(additional_special_tokens=['Once']), {}
    yield 'additional_special_tokens that is an added one', 'demo', dict(_added=[added()]), dict(additional_special_tokens=['<NEW>']), {}
    yield 'added_tokens.json', 'demo', {}, {}, {'added_tokens.json': {'<NEW>': 1975}}
    yield 'added_tokens.json, special', 'demo', {}, dict(additional_special_tokens=['<NEW>']), {'added_tokens.json': {'<NEW>': 1975}}
    yield 'special_tokens_map.json', 'demo', {}, {}, {'special_tokens_map.json': {'additional_special_tokens': ['<NEW>']}}
    yield 'special_tokens_map.json with flags', 'demo', {}, {}, {'special_tokens_map.json': {'pad_token': added(rstrip=True)}}
    yield 'older files beside a newer one', 'demo', {}, dict(added_tokens_decoder={'0': added(content='<|endoftext|>', special=True)}), {'special_tokens_map.json': {'additional_special_tokens': ['<NEW>']}, 'added_tokens.json': {'<NEW>': 1975}}
    yield 'WordLevel', 'demo', word_level(), {}, {}
    yield 'WordLevel, cleaned up', 'demo', word_level(), dict(clean_up_tokenization_spaces=True), {}
    yield 'BPE is not cleaned up', 'demo', {}, dict(clean_up_tokenization_spaces=True), {}
    yield 'BPE is cleaned up by force', 'demo', {}, dict(clean_up_tokenization_spaces=True, clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True), {}
    yield 'Unigram', 'demo', unigram(False), {}, {}
    yield 'Unigram with bytes', 'demo', unigram(True), {}, {}


def decode(oracle, ids):
    try:
        return oracle.decode(ids, skip_special_tokens=True)
    except BaseException as error:  # Strip of the end panics where a text is nothing but what it strips.
        if 'PanicException' not in type(error).__name__:
            raise
        return '\ufffd'


def main():
    made = []
    for name, base, tokenizer, config, files in cases():
        settings = json.load(open(os.path.join(MODELS, base, 'tokenizer.json')))
        tokens = tokenizer.pop('_added', [])
        settings.update(tokenizer)
        size = len(settings['model']['vocab'])
        settings['added_tokens'] = settings['added_tokens'] + [dict(id=size + index) | token for index, token in enumerate(tokens)]
        if tokens:
            tokenizer = tokenizer | dict(added_tokens=settings['added_tokens'])
        plain = dict(clean_up_tokenization_spaces=False) if settings['model']['type'] != 'BPE' else {
            key: value for key, value in json.load(open(os.path.join(MODELS, base, 'tokenizer_config.json'))).items() if key in ['bos_token', 'eos_token', 'unk_token', 'pad_token']}
        config = plain | config
        with tempfile.TemporaryDirectory() as folder:
            for file, content in [('tokenizer.json', settings), ('tokenizer_config.json', config), *files.items()]:
                json.dump(content, open(os.path.join(folder, file), 'w'))
            oracle = PreTrainedTokenizerFast.from_pretrained(folder)
        encoded = [[text, oracle.encode(text, add_special_tokens=False)] for text in TEXTS]
        draw = random.Random(name)
        rows = [ids for _, ids in encoded if ids] + [[draw.randrange(len(oracle)) for _ in range(draw.randrange(1, 9))] for _ in range(12)]
        # What bytes that are no UTF-8 show as is each one's own affair.
        decoded = [[ids, text] for ids in rows for text in [decode(oracle, ids)] if '\ufffd' not in text]
        made.append(dict(name=name, base=base, tokenizer=tokenizer, config=config, files=files, encoded=encoded, decoded=decoded))
    with open(os.path.join(HERE, 'cases.json'), 'w') as out:
        out.write('[\n' + ',\n'.join(json.dumps(case, ensure_ascii=False, separators=(',', ':')) for case in made) + '\n]\n')


main()
