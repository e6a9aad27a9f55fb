;; A `wasi:http/service` of WASI 0.3, by hand: the smallest guest whose functions are async. Its routes:
;;
;;   /        how many requests this instance was given, one digit
;;   /echo    the request's body, up to 64 KiB
;;   /pieces  what / answers, in three pieces, each when the one before was taken
;;   /spin    the same after computing for a while in `$spin`
;;   /hang    never answers: waits for an hour
;;   /fail    answers with an error code
;;   /trap    traps instead of an answer
;;   /cut     traps after the first piece of its answer
;;
;; It needs no toolchain, so WASI's types are written out as far as they are used. `handle`
;; returns what it waits for, `callback` is told when that is there, both with the codes of the component model's
;; CanonicalABI.md. An instance handles one request after the other, so globals say where the request stands.
(component
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
    (export "wait-for" (func async (param "how-long" u64)))))
  (import "wasi:http/types@0.3.0" (instance $types
    (export "fields" (type $fields (sub resource)))
    (export "request" (type $request (sub resource)))
    (export "response" (type $response (sub resource)))
    (type $dns-error (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns-error-payload (eq $dns-error)))
    (type $alert (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $alert-payload (eq $alert)))
    (type $size (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $size-payload (eq $size)))
    (type $error (variant
      (case "DNS-timeout")
      (case "DNS-error" $dns-error-payload)
      (case "destination-not-found")
      (case "destination-unavailable")
      (case "destination-IP-prohibited")
      (case "destination-IP-unroutable")
      (case "connection-refused")
      (case "connection-terminated")
      (case "connection-timeout")
      (case "connection-read-timeout")
      (case "connection-write-timeout")
      (case "connection-limit-reached")
      (case "TLS-protocol-error")
      (case "TLS-certificate-error")
      (case "TLS-alert-received" $alert-payload)
      (case "HTTP-request-denied")
      (case "HTTP-request-length-required")
      (case "HTTP-request-body-size" (option u64))
      (case "HTTP-request-method-invalid")
      (case "HTTP-request-URI-invalid")
      (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32))
      (case "HTTP-request-header-size" (option $size-payload))
      (case "HTTP-request-trailer-section-size" (option u32))
      (case "HTTP-request-trailer-size" $size-payload)
      (case "HTTP-response-incomplete")
      (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $size-payload)
      (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32))
      (case "HTTP-response-trailer-size" $size-payload)
      (case "HTTP-response-transfer-coding" (option string))
      (case "HTTP-response-content-coding" (option string))
      (case "HTTP-response-timeout")
      (case "HTTP-upgrade-failed")
      (case "HTTP-protocol-error")
      (case "loop-detected")
      (case "configuration-error")
      (case "internal-error" (option string))))
    (export "error-code" (type $error-code (eq $error)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[method]request.get-path-with-query"
      (func (param "self" (borrow $request)) (result (option string))))
    (export "[static]request.consume-body" (func
      (param "this" (own $request))
      (param "res" (future (result (error $error-code))))
      (result (tuple (stream u8) (future (result (option (own $fields)) (error $error-code)))))))
    (export "[static]response.new" (func
      (param "headers" (own $fields))
      (param "contents" (option (stream u8)))
      (param "trailers" (future (result (option (own $fields)) (error $error-code))))
      (result (tuple (own $response) (future (result (error $error-code)))))))
    (export "[method]response.set-status-code"
      (func (param "self" (borrow $response)) (param "status-code" u16) (result (result))))))

  (alias export $types "fields" (type $fields))
  (alias export $types "request" (type $request))
  (alias export $types "response" (type $response))
  (alias export $types "error-code" (type $error-code))
  (type $bytes (stream u8))
  (type $trailers (future (result (option (own $fields)) (error $error-code))))
  (type $outcome (future (result (error $error-code))))
  (type $answer (result (own $response) (error $error-code)))

  ;; The one string that the host passes is a path; the next one takes its place.
  (core module $memory
    (memory (export "memory") 2)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $memory))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $wait-for (canon lower (func $clock "wait-for")))
  (core func $fields (canon lower (func $types "[constructor]fields")))
  (core func $path (canon lower (func $types "[method]request.get-path-with-query")
    (memory $memory) (realloc $realloc)))
  (core func $consume (canon lower (func $types "[static]request.consume-body") (memory $memory)))
  (core func $response (canon lower (func $types "[static]response.new") (memory $memory)))
  (core func $set-status (canon lower (func $types "[method]response.set-status-code")))
  (core func $drop-request (canon resource.drop $request))
  (core func $return (canon task.return (result $answer) (memory $memory)))
  (core func $set-new (canon waitable-set.new))
  (core func $join (canon waitable.join))
  (core func $stream-new (canon stream.new $bytes))
  (core func $stream-read (canon stream.read $bytes async (memory $memory)))
  (core func $stream-write (canon stream.write $bytes async (memory $memory)))
  (core func $stream-drop-reader (canon stream.drop-readable $bytes))
  (core func $stream-drop-writer (canon stream.drop-writable $bytes))
  (core func $trailers-new (canon future.new $trailers))
  (core func $trailers-write (canon future.write $trailers async (memory $memory)))
  (core func $trailers-drop-reader (canon future.drop-readable $trailers))
  (core func $trailers-drop-writer (canon future.drop-writable $trailers))
  (core func $outcome-new (canon future.new $outcome))
  (core func $outcome-write (canon future.write $outcome async (memory $memory)))
  (core func $outcome-drop-reader (canon future.drop-readable $outcome))
  (core func $outcome-drop-writer (canon future.drop-writable $outcome))

  ;; Memory: 16 results of imports, 64 zeros ("ok, and nothing more"), 256 the digit, 1024 the path, 65536 a body.
  (core module $code
    (import "" "memory" (memory 2))
    (import "" "wait-for" (func $wait-for (param i64)))
    (import "" "fields" (func $fields (result i32)))
    (import "" "path" (func $path (param i32 i32)))
    (import "" "consume" (func $consume (param i32 i32 i32)))
    (import "" "response" (func $response (param i32 i32 i32 i32 i32)))
    (import "" "set-status" (func $set-status (param i32 i32) (result i32)))
    (import "" "drop-request" (func $drop-request (param i32)))
    (import "" "return" (func $return (param i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "" "set-new" (func $set-new (result i32)))
    (import "" "join" (func $join (param i32 i32)))
    (import "" "stream-new" (func $stream-new (result i64)))
    (import "" "stream-read" (func $stream-read (param i32 i32 i32) (result i32)))
    (import "" "stream-write" (func $stream-write (param i32 i32 i32) (result i32)))
    (import "" "stream-drop-reader" (func $stream-drop-reader (param i32)))
    (import "" "stream-drop-writer" (func $stream-drop-writer (param i32)))
    (import "" "trailers-new" (func $trailers-new (result i64)))
    (import "" "trailers-write" (func $trailers-write (param i32 i32) (result i32)))
    (import "" "trailers-drop-reader" (func $trailers-drop-reader (param i32)))
    (import "" "trailers-drop-writer" (func $trailers-drop-writer (param i32)))
    (import "" "outcome-new" (func $outcome-new (result i64)))
    (import "" "outcome-write" (func $outcome-write (param i32 i32) (result i32)))
    (import "" "outcome-drop-reader" (func $outcome-drop-reader (param i32)))
    (import "" "outcome-drop-writer" (func $outcome-drop-writer (param i32)))

    (global $served (mut i32) (i32.const 0))
    (global $set (mut i32) (i32.const 0))
    (global $waits (mut i32) (i32.const 0))
    (global $route (mut i32) (i32.const 0))
    (global $pieces (mut i32) (i32.const 0))
    (global $incoming (mut i32) (i32.const 0))
    (global $outcome (mut i32) (i32.const 0))
    (global $at (mut i32) (i32.const 0))
    (global $length (mut i32) (i32.const 0))

    ;; Routes are told apart by the letter after the slash.
    (func $handle (export "handle") (param $request i32) (result i32)
      (local $status i32)
      (local.set $status (i32.const 200))
      (if (i32.eqz (global.get $set)) (then (global.set $set (call $set-new))))
      (global.set $served (i32.add (global.get $served) (i32.const 1)))
      (global.set $pieces (i32.const 1))
      (global.set $route (i32.const 0))
      (call $path (local.get $request) (i32.const 16))
      (if (i32.gt_u (i32.load (i32.const 24)) (i32.const 1))
        (then (global.set $route (i32.load8_u offset=1 (i32.load (i32.const 20))))))
      (if (i32.eq (global.get $route) (i32.const 0x65)) ;; e
        (then (return (call $receive (local.get $request)))))
      (call $drop-request (local.get $request))
      (block $known
        (br_if $known (i32.eqz (global.get $route)))
        (br_if $known (i32.eq (global.get $route) (i32.const 0x63))) ;; c
        (if (i32.eq (global.get $route) (i32.const 0x66)) ;; f
          (then
            (call $return (i32.const 1) (i32.const 38) (i32.const 0) (i64.const 0)
              (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
            (return (i32.const 0))))
        (if (i32.eq (global.get $route) (i32.const 0x68)) ;; h
          (then (call $wait-for (i64.const 3600000000000)) (br $known)))
        (if (i32.eq (global.get $route) (i32.const 0x70)) ;; p
          (then (global.set $pieces (i32.const 3)) (br $known)))
        (if (i32.eq (global.get $route) (i32.const 0x73)) ;; s
          (then (call $spin (i32.const 150000000)) (br $known)))
        (if (i32.eq (global.get $route) (i32.const 0x74)) ;; t
          (then (unreachable)))
        (local.set $status (i32.const 404)))
      (i32.store8 (i32.const 256) (i32.add (i32.const 48) (i32.rem_u (global.get $served) (i32.const 10))))
      (call $respond (local.get $status) (i32.const 256) (i32.const 1)))

    (func $spin (param $n i32)
      (loop $again (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))

    ;; Reads the request's body and answers with it.
    (func $receive (param $request i32) (result i32)
      (local $outcome i64)
      (local.set $outcome (call $outcome-new))
      (global.set $outcome (call $writer (local.get $outcome)))
      (call $consume (local.get $request) (i32.wrap_i64 (local.get $outcome)) (i32.const 16))
      (global.set $incoming (i32.load (i32.const 16)))
      (call $trailers-drop-reader (i32.load (i32.const 20)))
      (global.set $length (i32.const 0))
      (call $read))

    (func $read (result i32)
      (local $code i32)
      (loop $more
        (local.set $code (call $stream-read (global.get $incoming)
          (i32.add (i32.const 65536) (global.get $length))
          (i32.sub (i32.const 65536) (global.get $length))))
        (if (i32.eq (local.get $code) (i32.const -1))
          (then
            (call $join (global.get $incoming) (global.get $set))
            (return (call $wait))))
        (br_if $more (call $got (local.get $code))))
      (call $received))

    ;; Counts what was read; whether there may be more.
    (func $got (param $code i32) (result i32)
      (global.set $length (i32.add (global.get $length) (i32.shr_u (local.get $code) (i32.const 4))))
      (i32.and
        (i32.eqz (i32.and (local.get $code) (i32.const 15)))
        (i32.lt_u (global.get $length) (i32.const 65536))))

    (func $received (result i32)
      (call $stream-drop-reader (global.get $incoming))
      (if (i32.eq (call $outcome-write (global.get $outcome) (i32.const 64)) (i32.const -1))
        (then (call $await (global.get $outcome)))
        (else (call $outcome-drop-writer (global.get $outcome)) (global.set $outcome (i32.const 0))))
      (call $respond (i32.const 200) (i32.const 65536) (global.get $length)))

    ;; Answers, then sends the body: nobody takes it before.
    (func $respond (param $status i32) (param $at i32) (param $length i32) (result i32)
      (local $stream i64)
      (local $trailers i64)
      (local.set $stream (call $stream-new))
      (local.set $trailers (call $trailers-new))
      (call $response (call $fields) (i32.const 1) (i32.wrap_i64 (local.get $stream))
        (i32.wrap_i64 (local.get $trailers)) (i32.const 16))
      (call $outcome-drop-reader (i32.load (i32.const 20)))
      (drop (call $set-status (i32.load (i32.const 16)) (local.get $status)))
      (call $return (i32.const 0) (i32.load (i32.const 16)) (i32.const 0) (i64.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (global.set $at (local.get $at))
      (global.set $length (local.get $length))
      (if (local.get $length)
        (then (call $send (call $writer (local.get $stream))))
        (else (call $stream-drop-writer (call $writer (local.get $stream)))))
      (if (i32.eq (call $trailers-write (call $writer (local.get $trailers)) (i32.const 64)) (i32.const -1))
        (then (call $await (call $writer (local.get $trailers))))
        (else (call $trailers-drop-writer (call $writer (local.get $trailers)))))
      (call $next))

    (func $send (param $stream i32)
      (if (i32.eq (call $stream-write (local.get $stream) (global.get $at) (global.get $length)) (i32.const -1))
        (then (call $await (local.get $stream)))
        (else (call $sent (local.get $stream)))))

    (func $sent (param $stream i32)
      (if (i32.eq (global.get $route) (i32.const 0x63)) (then (unreachable)))
      (global.set $pieces (i32.sub (global.get $pieces) (i32.const 1)))
      (if (global.get $pieces)
        (then (call $send (local.get $stream)))
        (else (call $stream-drop-writer (local.get $stream)))))

    (func $callback (export "callback") (param $event i32) (param $handle i32) (param $code i32) (result i32)
      (if (i32.eq (local.get $event) (i32.const 2)) ;; a stream was read
        (then
          (if (call $got (local.get $code)) (then (return (call $read))))
          (return (call $received))))
      (global.set $waits (i32.sub (global.get $waits) (i32.const 1)))
      (if (i32.eq (local.get $event) (i32.const 3)) ;; a stream was written
        (then (call $sent (local.get $handle)))
        (else ;; a future was written
          (if (i32.eq (local.get $handle) (global.get $outcome))
            (then (call $outcome-drop-writer (local.get $handle)) (global.set $outcome (i32.const 0)))
            (else (call $trailers-drop-writer (local.get $handle))))))
      (call $next))

    (func $await (param $handle i32)
      (global.set $waits (i32.add (global.get $waits) (i32.const 1)))
      (call $join (local.get $handle) (global.get $set)))

    ;; What `handle` and `callback` return: wait for an event of the set, or the end.
    (func $wait (result i32) (i32.or (i32.const 2) (i32.shl (global.get $set) (i32.const 4))))
    (func $next (result i32)
      (if (result i32) (global.get $waits) (then (call $wait)) (else (i32.const 0))))

    ;; A new stream or future is two handles: the reader's in the low half, the writer's in the high one.
    (func $writer (param $both i64) (result i32)
      (i32.wrap_i64 (i64.shr_u (local.get $both) (i64.const 32)))))

  (core instance $code (instantiate $code (with "" (instance
    (export "memory" (memory $memory))
    (export "wait-for" (func $wait-for))
    (export "fields" (func $fields))
    (export "path" (func $path))
    (export "consume" (func $consume))
    (export "response" (func $response))
    (export "set-status" (func $set-status))
    (export "drop-request" (func $drop-request))
    (export "return" (func $return))
    (export "set-new" (func $set-new))
    (export "join" (func $join))
    (export "stream-new" (func $stream-new))
    (export "stream-read" (func $stream-read))
    (export "stream-write" (func $stream-write))
    (export "stream-drop-reader" (func $stream-drop-reader))
    (export "stream-drop-writer" (func $stream-drop-writer))
    (export "trailers-new" (func $trailers-new))
    (export "trailers-write" (func $trailers-write))
    (export "trailers-drop-reader" (func $trailers-drop-reader))
    (export "trailers-drop-writer" (func $trailers-drop-writer))
    (export "outcome-new" (func $outcome-new))
    (export "outcome-write" (func $outcome-write))
    (export "outcome-drop-reader" (func $outcome-drop-reader))
    (export "outcome-drop-writer" (func $outcome-drop-writer))))))

  (func $handle async (param "request" (own $request)) (result $answer)
    (canon lift (core func $code "handle") async (memory $memory) (callback (core func $code "callback"))))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/handler@0.3.0" (instance $handler)))
