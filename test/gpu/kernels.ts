/** PTX of kernels that tests put in the place of ours: the driver compiles it for whatever GPU there is. */
import { KERNEL_ARGUMENTS } from '../../lib/lab/index.ts'

const ptx = (body: string) => `.version 7.0
.target sm_70
.address_size 64
.visible .entry gemv_q4(.param .align 8 .b8 arguments[${KERNEL_ARGUMENTS.linear.bytes}])
{
${body}
}
`

/** Stops the device: what CUDA calls a sticky error. */
export const TRAPPING = Buffer.from(ptx('trap;\nret;'))
/** Writes nothing. */
export const IDLE = Buffer.from(ptx('ret;'))
