// Command vault-kv serves Vault's own KV engine (the plugin that Vault links in) over Vault's HTTP protocol, for tests.
//
// It is a stand-in for a Vault server: paths, versions, answers and errors of secrets are the real engine's; what is
// around it (one token, no seal, no policies, storage in memory) is this file. `secret/` is version 2, `kv/` version 1.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/sdk/logical"
)

// An engine and where it keeps its things.
type mount struct {
	backend logical.Backend
	storage logical.Storage
}

func open(ctx context.Context, version string) (*mount, error) {
	storage := &logical.InmemStorage{}
	config := &logical.BackendConfig{
		Logger:      hclog.NewNullLogger(),
		StorageView: storage,
		System:      &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: time.Hour},
		Config:      map[string]string{"version": version},
		BackendUUID: "kv-" + version,
	}
	backend, err := kv.Factory(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := backend.Initialize(ctx, &logical.InitializationRequest{Storage: storage}); err != nil {
		return nil, err
	}
	return &mount{backend, storage}, nil
}

func operation(r *http.Request) (logical.Operation, bool) {
	switch r.Method {
	case "LIST":
		return logical.ListOperation, true
	case http.MethodGet:
		if r.URL.Query().Get("list") == "true" {
			return logical.ListOperation, true
		}
		return logical.ReadOperation, true
	case http.MethodPut, http.MethodPost:
		return logical.UpdateOperation, true
	case http.MethodDelete:
		return logical.DeleteOperation, true
	}
	return "", false
}

func refuse(w http.ResponseWriter, status int, errors ...string) {
	if errors == nil {
		errors = []string{}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": errors})
}

type server struct {
	mounts map[string]*mount
	token  atomic.Value
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/test/token" { // Not Vault's: the test changes the token that is let in.
		token, _ := io.ReadAll(r.Body)
		s.token.Store(string(token))
		return
	}
	if r.Header.Get("X-Vault-Request") != "true" {
		refuse(w, http.StatusBadRequest, "missing 'X-Vault-Request' header")
		return
	}
	if r.Header.Get("X-Vault-Token") != s.token.Load().(string) {
		refuse(w, http.StatusForbidden, "permission denied")
		return
	}
	path, found := strings.CutPrefix(r.URL.Path, "/v1/")
	name, rest, _ := strings.Cut(path, "/")
	mount := s.mounts[name]
	op, known := operation(r)
	if !found || mount == nil || !known {
		refuse(w, http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", path))
		return
	}
	data := map[string]any{}
	if op == logical.UpdateOperation {
		if err := json.NewDecoder(r.Body).Decode(&data); err != nil && err != io.EOF {
			refuse(w, http.StatusBadRequest, "failed to parse JSON input: "+err.Error())
			return
		}
	}
	for key, values := range r.URL.Query() {
		data[key] = values[0]
	}
	if op == logical.ListOperation && !strings.HasSuffix(rest, "/") && rest != "" {
		rest += "/"
	}
	s.handle(w, r, mount, &logical.Request{Operation: op, Path: rest, Data: data, Storage: mount.storage, MountPoint: name + "/"})
}

func (s *server) handle(w http.ResponseWriter, r *http.Request, mount *mount, request *logical.Request) {
	if request.Operation == logical.UpdateOperation {
		_, exists, err := mount.backend.HandleExistenceCheck(r.Context(), request)
		if err == nil && !exists {
			request.Operation = logical.CreateOperation
		}
	}
	response, err := mount.backend.HandleRequest(r.Context(), request)
	if status, failure := logical.RespondErrorCommon(request, response, err); failure != nil || status >= 400 {
		if failure == nil || status == http.StatusNotFound {
			refuse(w, status)
			return
		}
		refuse(w, status, failure.Error())
		return
	}
	if response == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if status, raw := response.Data[logical.HTTPStatusCode], response.Data[logical.HTTPRawBody]; status != nil {
		w.WriteHeader(status.(int))
		switch body := raw.(type) {
		case string:
			io.WriteString(w, body)
		case []byte:
			w.Write(body)
		}
		return
	}
	answer := logical.LogicalResponseToHTTPResponse(response)
	json.NewEncoder(w).Encode(answer)
}

func main() {
	token := flag.String("token", "root", "the token that is let in")
	address := flag.String("listen", "127.0.0.1:0", "where to listen")
	cert := flag.String("cert", "", "certificate (PEM), for TLS")
	key := flag.String("key", "", "its key (PEM)")
	flag.Parse()
	served := &server{mounts: map[string]*mount{}}
	served.token.Store(*token)
	for name, version := range map[string]string{"secret": "2", "kv": "1"} {
		mount, err := open(context.Background(), version)
		if err != nil {
			log.Fatalf("the engine for %s/ does not start: %v", name, err)
		}
		served.mounts[name] = mount
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on %s\n", listener.Addr())
	if *cert != "" {
		log.Fatal(http.ServeTLS(listener, served, *cert, *key))
	}
	log.Fatal(http.Serve(listener, served))
}
