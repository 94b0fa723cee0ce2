package cni

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

// Bounds of a question to the API server.
const (
	apiTries   = 5
	apiTimeout = 3 * time.Second
	apiPause   = 500 * time.Millisecond
	maxAnswer  = 4 << 20
)

// kubeconfig is the part of that file format that the daemon writes and the
// plugin reads. As JSON it is a valid kubeconfig for kubectl, too.
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	Clusters       []namedCluster `json:"clusters"`
	Users          []namedUser    `json:"users"`
	Contexts       []namedContext `json:"contexts"`
	CurrentContext string         `json:"current-context"`
}

type namedCluster struct {
	Name    string `json:"name"`
	Cluster struct {
		Server string `json:"server"`
		CA     []byte `json:"certificate-authority-data"`
	} `json:"cluster"`
}

type namedUser struct {
	Name string `json:"name"`
	User struct {
		Token string `json:"token"`
	} `json:"user"`
}

type namedContext struct {
	Name    string `json:"name"`
	Context struct {
		Cluster string `json:"cluster"`
		User    string `json:"user"`
	} `json:"context"`
}

func newKubeconfig(server string, ca []byte, token string) kubeconfig {
	k := kubeconfig{APIVersion: "v1", Kind: "Config", CurrentContext: Name}
	cluster := namedCluster{Name: Name}
	cluster.Cluster.Server, cluster.Cluster.CA = server, ca
	user := namedUser{Name: Name}
	user.User.Token = token
	ctx := namedContext{Name: Name}
	ctx.Context.Cluster, ctx.Context.User = Name, Name
	k.Clusters, k.Users, k.Contexts = []namedCluster{cluster}, []namedUser{user}, []namedContext{ctx}
	return k
}

// api is a client of the API server for single GETs.
type api struct {
	server, token string
	http          *http.Client
}

func newAPI(server string, ca []byte, token string) (*api, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("no certificate of the API server's authority")
	}
	return &api{server: server, token: token, http: &http.Client{
		Timeout: apiTimeout,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true,
		},
	}}, nil
}

// get decodes an object; the status is 0 when there was no answer.
func (a *api) get(ctx context.Context, path string, into any) (status int, _ error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	request.Header.Set("Accept", "application/json")
	answer, err := a.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return answer.StatusCode, fmt.Errorf("GET %s: %s", path, answer.Status)
	}
	return answer.StatusCode, json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(into)
}

// metadata is what is read of an object.
type metadata struct {
	Metadata struct {
		UID               string            `json:"uid"`
		Annotations       map[string]string `json:"annotations"`
		DeletionTimestamp string            `json:"deletionTimestamp"`
	} `json:"metadata"`
}

// askAPI returns the annotations of a pod, retrying for a while: a pod refused
// comes back only after seconds.
func askAPI(path, namespace, name, uid string) (map[string]string, error) {
	if path == "" {
		return nil, errors.New("no kubeconfig is configured to ask the API server with")
	}
	var last error
	for try := range apiTries {
		if try > 0 {
			<-time.After(apiPause)
		}
		// Read each time: the daemon refreshes the token.
		client, err := apiOf(path)
		if err != nil {
			return nil, err
		}
		var pod metadata
		status, err := client.get(context.Background(), "/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+url.PathEscape(name), &pod)
		if err == nil && uid != "" && pod.Metadata.UID != uid && pod.Metadata.Annotations["kubernetes.io/config.mirror"] == "" {
			return nil, fmt.Errorf("the API server knows another pod of that name (uid %s, not %s)", pod.Metadata.UID, uid)
		}
		if err == nil {
			return pod.Metadata.Annotations, nil
		}
		if last = err; status == http.StatusNotFound {
			break
		}
	}
	return nil, fmt.Errorf("the API server did not say: %w", last)
}

func apiOf(path string) (*api, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	var k kubeconfig
	if err := json.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	if len(k.Clusters) != 1 || len(k.Users) != 1 {
		return nil, fmt.Errorf("kubeconfig %s: one cluster and one user expected", path)
	}
	return newAPI(k.Clusters[0].Cluster.Server, k.Clusters[0].Cluster.CA, k.Users[0].User.Token)
}
