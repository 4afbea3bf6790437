/** Formats of texts as regular expressions. Other formats are notes to the reader, as JSON Schema has it. */

const HEX = '[0-9a-fA-F]'
const H16 = `${HEX}{1,4}`
const OCTET = '(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)'
const IPV4 = `${OCTET}(\\.${OCTET}){3}`
const IPV6 = [
  `(${H16}:){7}${H16}`,
  `(${H16}:){6}${IPV4}`,
  `(${H16}:){1,7}:`,
  ...[1, 2, 3, 4, 5, 6].map((behind) => `(${H16}:){1,${7 - behind}}(:${H16}){1,${behind}}`),
  `:((:${H16}){1,7}|:)`,
  `(${H16}:){1,5}:${IPV4}`,
  ...[1, 2, 3, 4].map((behind) => `(${H16}:){1,${5 - behind}}(:${H16}){1,${behind}}:${IPV4}`),
  `:(:${H16}){0,5}:${IPV4}`,
].join('|')

const LEAP = '(([02468][048]|[13579][26])00|\\d\\d(0[48]|[2468][048]|[13579][26]))'
const DATE = `(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))|${LEAP}-02-29)`
const CLOCK = '([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?'
const ZONE = '([zZ]|[+-]([01]\\d|2[0-3]):[0-5]\\d)'
/** A leap second is one of UTC. */
const TIME = `(${CLOCK}${ZONE}|23:59:60(\\.\\d{1,9})?([zZ]|[+-]00:00))`
const LABEL = '[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?'
/** Of an address, whose length others bound. */
const PART = '[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?'
const HOST = `${LABEL}(\\.${LABEL})*`

const ESCAPED = `%${HEX}{2}`
const UNRESERVED = 'a-zA-Z0-9._~\\-'
const PLAIN = `${UNRESERVED}!$&'()*+,;=`
const PCHAR = `([${PLAIN}:@]|${ESCAPED})`
const SCHEME = '[a-zA-Z][a-zA-Z0-9+.-]*'
const URI_HOST = `(\\[(${IPV6}|[vV]${HEX}+\\.[${PLAIN}:]+)\\]|([${PLAIN}]|${ESCAPED})*)`
const AUTHORITY = `//(([${PLAIN}:]|${ESCAPED})*@)?${URI_HOST}(:\\d*)?(/${PCHAR}*)*`
const ABSOLUTE = `/(${PCHAR}+(/${PCHAR}*)*)?`
const ROOTLESS = `${PCHAR}+(/${PCHAR}*)*`
const NO_SCHEME = `([${PLAIN}@]|${ESCAPED})+(/${PCHAR}*)*`
const TAIL = `(\\?(${PCHAR}|[/?])*)?(#(${PCHAR}|[/?])*)?`
// A scheme alone is one too by RFC 3986, but nobody means 'abc:' by a URI.
const URI = `${SCHEME}:(${AUTHORITY}|${ABSOLUTE}|${ROOTLESS})${TAIL}`
const REFERENCE = `(${URI}|(${AUTHORITY}|${ABSOLUTE}|${NO_SCHEME})?${TAIL})`
const ATOM = "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
const POINTER = '(/([^/~]|~[01])*)*'
const NAME_PART = `([a-zA-Z0-9_]|${ESCAPED})`
const VARIABLE = `${NAME_PART}+(:[1-9]\\d{0,3}|\\*)?`
const TEMPLATE = `([^\\x00-\\x20"'<>%\\\\^\`{|}]|${ESCAPED}|\\{[+#./;?&=,!@|]?${VARIABLE}(,${VARIABLE})*\\})*`
const TIME_PART = '(\\d+H(\\d+M(\\d+S)?)?|\\d+M(\\d+S)?|\\d+S)'

const FORMATS: Readonly<Record<string, string>> = {
  date: DATE,
  time: TIME,
  'date-time': `${DATE}[tT]${TIME}`,
  duration: `P((\\d+D|\\d+M(\\d+D)?|\\d+Y(\\d+M(\\d+D)?)?)(T${TIME_PART})?|T${TIME_PART}|\\d+W)`,
  email: `${ATOM}(\\.${ATOM})*@${PART}(\\.${PART})+`,
  hostname: HOST,
  ipv4: IPV4,
  ipv6: IPV6,
  uuid: `${HEX}{8}-${HEX}{4}-${HEX}{4}-${HEX}{4}-${HEX}{12}`,
  uri: URI,
  'uri-reference': REFERENCE,
  'uri-template': TEMPLATE,
  'json-pointer': POINTER,
  'relative-json-pointer': `(0|[1-9]\\d*)(#|${POINTER})`,
}

/** The same under another name, in earlier drafts. */
const OTHER_NAMES: Readonly<Record<string, string>> = { 'ip-address': 'ipv4', 'host-name': 'hostname' }

/** What would be needed to hold to them is more than an automaton. */
const UNSUPPORTED = ['idn-email', 'idn-hostname', 'iri', 'iri-reference']

export const isUnsupportedFormat = (format: string) => UNSUPPORTED.includes(format)

/** undefined of a format that is a note. */
export const formatRegex = (format: string): string | undefined => FORMATS[OTHER_NAMES[format] ?? format]
