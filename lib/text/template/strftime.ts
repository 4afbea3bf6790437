/** strftime_now(), in the C locale and the machine's own time zone. */
const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday']
const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
]

const DAY_MS = 86_400_000

const dayOfYear = (date: Date) =>
  Math.round(
    (Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 1)) / DAY_MS,
  ) + 1

/** Weeks of the year that began on the day `first` (0 is Sunday). */
const week = (date: Date, first: number) => Math.floor((dayOfYear(date) + 6 - ((date.getDay() - first + 7) % 7)) / 7)

/** The year and week of ISO 8601: those of the week's Thursday. */
function isoWeek(date: Date): [year: number, week: number] {
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate() + 3 - ((date.getDay() + 6) % 7))
  return [thursday.getFullYear(), Math.ceil(dayOfYear(thursday) / 7)]
}

const hour12 = (date: Date) => date.getHours() % 12 || 12

/** A directive's value: digits with their width, or a text. */
const DIRECTIVES: Record<string, (date: Date) => string | [value: number, width: number, fill?: string]> = {
  a: (date) => DAYS[date.getDay()]!.slice(0, 3),
  A: (date) => DAYS[date.getDay()]!,
  b: (date) => MONTHS[date.getMonth()]!.slice(0, 3),
  B: (date) => MONTHS[date.getMonth()]!,
  c: (date) => strftime(date, '%a %b %e %H:%M:%S %Y'),
  C: (date) => [Math.floor(date.getFullYear() / 100), 2],
  d: (date) => [date.getDate(), 2],
  D: (date) => strftime(date, '%m/%d/%y'),
  e: (date) => [date.getDate(), 2, ' '],
  f: (date) => [date.getMilliseconds() * 1000, 6],
  F: (date) => strftime(date, '%Y-%m-%d'),
  g: (date) => [isoWeek(date)[0] % 100, 2],
  G: (date) => [isoWeek(date)[0], 4],
  h: (date) => MONTHS[date.getMonth()]!.slice(0, 3),
  H: (date) => [date.getHours(), 2],
  I: (date) => [hour12(date), 2],
  j: (date) => [dayOfYear(date), 3],
  k: (date) => [date.getHours(), 2, ' '],
  l: (date) => [hour12(date), 2, ' '],
  m: (date) => [date.getMonth() + 1, 2],
  M: (date) => [date.getMinutes(), 2],
  n: () => '\n',
  p: (date) => (date.getHours() < 12 ? 'AM' : 'PM'),
  P: (date) => (date.getHours() < 12 ? 'am' : 'pm'),
  r: (date) => strftime(date, '%I:%M:%S %p'),
  R: (date) => strftime(date, '%H:%M'),
  s: (date) => String(Math.floor(date.getTime() / 1000)),
  S: (date) => [date.getSeconds(), 2],
  t: () => '\t',
  T: (date) => strftime(date, '%H:%M:%S'),
  u: (date) => String(date.getDay() || 7),
  U: (date) => [week(date, 0), 2],
  V: (date) => [isoWeek(date)[1], 2],
  w: (date) => String(date.getDay()),
  W: (date) => [week(date, 1), 2],
  x: (date) => strftime(date, '%m/%d/%y'),
  X: (date) => strftime(date, '%H:%M:%S'),
  y: (date) => [date.getFullYear() % 100, 2],
  Y: (date) => String(date.getFullYear()),
  // A date of Python's now() knows no zone.
  z: () => '',
  Z: () => '',
  '%': () => '%',
}

export function strftime(date: Date, format: string): string {
  return format.replace(/%([-_0^#]?)([a-zA-Z%])/g, (whole, flag: string, name: string) => {
    const directive = Object.hasOwn(DIRECTIVES, name) ? DIRECTIVES[name]!(date) : whole
    if (typeof directive === 'string') return flag === '^' ? directive.toUpperCase() : directive
    const [value, width, fill = '0'] = directive
    if (flag === '-') return String(value)
    return String(value).padStart(width, flag === '_' ? ' ' : flag === '0' ? '0' : fill)
  })
}
