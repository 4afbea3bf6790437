/** What the server is made of and the package does not depend on: the build puts it into one file. */
export { default as cors } from '@fastify/cors'
export { default as fastify } from 'fastify'
export { type Logger as PinoLogger, pino } from 'pino'
export { Counter, Gauge, Histogram, Registry } from 'prom-client'
