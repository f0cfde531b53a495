// A client of exec, attach and port-forward over SPDY/3.1, by npm's spdy-transport.
//
//   spdy.js command URL PROTOCOL STREAMS [COLUMNSxROWS]   bridges its own standard streams; STREAMS as stdin,stdout,resize
//   spdy.js forward URL PORT CONNECTIONS BYTES            sends BYTES through each connection to an echo, and compares
//   spdy.js get URL PORT                                  asks a web server for / and prints its whole answer
//   spdy.js vanish URL PROTOCOL STREAMS                   drops the connection after the first output
//
// URL may be tcp://HOST:PORT, for a connection that has been upgraded already. The last line on standard output of
// `forward`, and on standard error of `command`, is JSON.
'use strict'
const http = require('http')
const https = require('https')
const net = require('net')
const transport = require('spdy-transport')

const [mode, url, ...rest] = process.argv.slice(2)

function upgraded (protocol, then) {
  if (url.startsWith('tcp://')) {
    const { hostname, port } = new URL(url)
    const socket = net.connect(port, hostname, () => then(socket))
    return
  }
  const options = {
    method: 'POST',
    rejectUnauthorized: false,
    headers: { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': [protocol] }
  }
  const request = (url.startsWith('https') ? https : http).request(url, options)
  request.on('upgrade', (response, socket) => {
    if (response.headers['x-stream-protocol-version'] !== protocol) throw new Error('another protocol')
    then(socket)
  })
  request.on('response', (response) => {
    process.stderr.write(JSON.stringify({ refused: response.statusCode }) + '\n')
    response.resume()
    response.on('end', () => process.exit(2))
  })
  request.on('error', (error) => {
    process.stderr.write(JSON.stringify({ broken: error.message }) + '\n')
    process.exit(3)
  })
  request.end()
}

function connect (socket) {
  socket.setNoDelay(true)
  const connection = transport.connection.create(socket, { protocol: 'spdy', isServer: false })
  // The server closes when all is said; the library may just have something to answer. Who has not heard all says so below.
  connection.on('error', () => {})
  connection.start(3.1)
  return connection
}

function open (connection, headers) {
  return new Promise((resolve, reject) => {
    connection.request({ method: 'POST', host: 'node', path: '/', headers }, (error, stream) => {
      if (error) return reject(error)
      stream.on('error', () => {})
      resolve(stream)
    })
  })
}

function text (stream) {
  return new Promise((resolve) => {
    const pieces = []
    stream.on('data', (piece) => pieces.push(piece))
    const done = () => resolve(Buffer.concat(pieces))
    stream.on('end', done)
    // A reset; of a stream that ended, what has come may still be on its way.
    stream.on('close', () => setTimeout(done, 1000))
  })
}

async function command (socket, names, size) {
  const connection = connect(socket)
  // What has come is still on its way through the library when the socket is closed.
  socket.on('close', () => setTimeout(() => {
    process.stderr.write(JSON.stringify({ status: 'lost' }) + '\n')
    process.exit(1)
  }, 2000))
  const streams = {}
  for (const name of names) streams[name] = await open(connection, { streamtype: name })
  const status = text(streams.error)
  const output = ['stdout', 'stderr'].filter((name) => streams[name]).map((name) => {
    streams[name].pipe(process[name], { end: false })
    return new Promise((resolve) => streams[name].on('end', resolve))
  })
  if (mode === 'vanish') {
    streams.stdout.once('data', () => { socket.destroy(); process.exit(0) })
  }
  if (streams.resize) streams.resize.write(JSON.stringify({ Width: +size[0], Height: +size[1] }) + '\n')
  if (streams.stdin) process.stdin.pipe(streams.stdin)
  await Promise.all(output)
  const said = (await status).toString()
  process.stdout.write('', () => process.stderr.write('\n' + (said || '{"status":"nothing"}') + '\n', () => process.exit(0)))
}

async function forward (socket, port, connections, bytes) {
  const connection = connect(socket)
  const one = async (requestid) => {
    const headers = { port: String(port), requestid: String(requestid) }
    const error = await open(connection, { streamtype: 'error', ...headers })
    error.end()
    const complaint = text(error)
    const data = await open(connection, { streamtype: 'data', ...headers })
    const echoed = text(data)
    const sent = Buffer.alloc(bytes, `${requestid} is sent; `)
    data.end(sent)
    const [came, said] = [await echoed, (await complaint).toString()]
    return { same: came.equals(sent), length: came.length, said }
  }
  const results = await Promise.all(Array.from({ length: connections }, (_, n) => one(n)))
  const same = results.filter((result) => result.same).length
  const said = results.map((result) => result.said).find((said) => said) || ''
  process.stdout.write(JSON.stringify({ same, said, lengths: results.filter((result) => !result.same).map((result) => result.length) }) + '\n', () => process.exit(0))
}

async function get (socket, port) {
  const connection = connect(socket)
  const headers = { port, requestid: '0' }
  const error = await open(connection, { streamtype: 'error', ...headers })
  error.end()
  const data = await open(connection, { streamtype: 'data', ...headers })
  const answer = text(data)
  data.write('GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n')
  const came = await answer
  process.stdout.write(came, () => process.exit(0))
}

if (mode === 'get') {
  upgraded('portforward.k8s.io', (socket) => get(socket, rest[0]))
} else if (mode === 'forward') {
  upgraded('portforward.k8s.io', (socket) => forward(socket, ...rest.map(Number)))
} else {
  const [protocol, names, size] = rest
  upgraded(protocol, (socket) => command(socket, ['error', ...names.split(',')], (size || '').split('x')))
}
