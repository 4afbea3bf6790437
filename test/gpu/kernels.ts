/** PTX of kernels that tests put in the place of ours: the driver compiles it for whatever GPU there is. */
import { KERNEL_ARGUMENTS } from '../../lib/lab/index.ts'

type Kind = 'linear' | 'experts' | 'route' | 'combine'
const ptx = (body: string, name = 'gemv_q4', kind: Kind = 'linear') => `.version 7.0
.target sm_70
.address_size 64
.visible .entry ${name}(.param .align 8 .b8 arguments[${KERNEL_ARGUMENTS[kind].bytes}])
{
${body}
}
`

/** Stops the device: what CUDA calls a sticky error. */
export const TRAPPING = Buffer.from(ptx('trap;\nret;'))
/** Writes nothing. */
export const IDLE = Buffer.from(ptx('ret;'))
export const idle = (name: string, kind: Kind) => Buffer.from(ptx('ret;', name, kind))
